# Ends the processes of a run once the process they serve is gone, however that one ended.
# $1: run folder; $2, $3: id and start time of the process to watch.
# Each file in $1/running is named <stage>-<name>.<signal> and holds the first line of /proc/<id>/stat of a group leader.
trap '' HUP INT TERM

# same ID START: is the process with this id the one that started at this time? Leaves its state in $state.
same() {
  { IFS= read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  # The name stands in brackets and may hold spaces: fields are counted from behind it.
  set -- "$2" ${stat##*) }
  state=$2
  [ "${21}" = "$1" ]
}

while same "$2" "$3" && [ "$state" != Z ]; do
  [ -d "$1/running" ] || exit 0
  sleep 0.2
done

# From here on nobody can register another process.
mv "$1/running" "$1/ended" 2>/dev/null || exit 0
for file in "$1"/ended/*; do
  [ -e "$file" ] || continue
  # A process that is just being started has not written its line yet.
  tries=20
  until [ -s "$file" ] || [ "$tries" = 0 ]; do tries=$((tries - 1)); sleep 0.1; done
  IFS= read -r line <"$file" || continue
  id=${line%% *}
  set -- "$1" ${line##*) }
  # Of a leader that is gone children may be left; its id is not given away as long as there are.
  same "$id" "${21}" || [ ! -e "/proc/$id" ] || continue
  kill -s "${file##*.}" -- "-$id" 2>/dev/null
  tries=100
  while kill -s 0 -- "-$id" 2>/dev/null && [ "$tries" != 0 ]; do tries=$((tries - 1)); sleep 0.1; done
  kill -s KILL -- "-$id" 2>/dev/null
done
rm -rf "$1"
