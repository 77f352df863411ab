//! The corpus: one sample of every (type, schema) ever written, as `write-service/corpus/<type>.<schema>.txt`. The bytes
//! are those of the release that wrote them; below them stands what they are published as today.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::*;

/// Bytes in a line of a sample.
const LINE: usize = 32;

fn path((type_name, schema): (&str, i16)) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    PathBuf::from(folder).join(format!("{type_name}.{schema}.txt"))
}

/// The text of a sample.
fn text(stored: &StoredEvent, published: &RecordedEvent) -> String {
    let (metadata, body) = (hex(&stored.metadata), hex(&stored.body));
    format!("metadata\n{metadata}\nbody\n{body}\npublished as\n{published:#?}\n")
}

fn hex(bytes: &[u8]) -> String {
    let byte = |byte: &u8| format!("{byte:02x}");
    let line = |bytes: &[u8]| bytes.iter().map(byte).collect::<String>() + "\n";
    bytes.chunks(LINE).map(line).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|byte| u8::from_str_radix(&String::from_iter(byte), 16).unwrap()).collect()
}

/// Every sample with its text, by type and schema.
fn corpus() -> BTreeMap<(String, i16), (StoredEvent, String)> {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).unwrap();
    let sample = |file: std::io::Result<fs::DirEntry>| {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (type_name, schema) = name.split_once('.').unwrap();
        let (type_name, schema) = (type_name.to_owned(), schema.parse().unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let (_, bytes_and_form) = text.split_once("metadata\n").unwrap();
        let (metadata, body_and_form) = bytes_and_form.split_once("\nbody\n").unwrap();
        let (body, _) = body_and_form.split_once("\npublished as\n").unwrap();
        let (metadata, body) = (bytes(metadata), bytes(body));
        let stored = StoredEvent { type_name: type_name.clone(), schema, metadata, body };
        ((type_name, schema), (stored, text))
    };
    files.map(sample).collect()
}

/// Today's event of every type, stored today.
fn today() -> BTreeMap<String, (StoredEvent, Event)> {
    let stored = samples().into_iter().map(|(category, key, event)| {
        let stored = encode(event.clone(), envelope(category, key));
        (stored.type_name.clone(), (stored, event))
    });
    stored.collect()
}

#[test]
fn what_is_written_today_is_in_the_corpus_byte_for_byte() {
    for (stored, _) in today().into_values() {
        let pair = (stored.type_name.as_str(), stored.schema);
        let (path, text) = (path(pair), text(&stored, &decode(&stored).unwrap()));
        let Ok(kept) = fs::read_to_string(&path) else {
            panic!("{pair:?} has no sample: keep this as {}\n{text}", path.display())
        };
        assert!(
            text == kept,
            "the stored form of {pair:?} has changed, and events stored in the old form stay. Take the change back, or give \
             it the next schema number with an upcaster and a sample of its own: see CONTRIBUTING, \"Change the contract\""
        );
    }
}

#[test]
fn every_sample_ever_written_is_read_as_todays_event() {
    let today = today();
    for (pair, (stored, kept)) in corpus() {
        let published = decode(&stored).unwrap_or_else(|error| panic!("{pair:?}: {error}"));
        let text = text(&stored, &published);
        assert!(
            text == kept,
            "{pair:?} is published differently than before. If that is meant, change the sample below its bytes:\n{text}"
        );
        assert_eq!(to_domain(published).as_ref(), Ok(&today[&pair.0].1), "{pair:?}");
    }
}

#[test]
fn every_reader_has_a_sample_and_every_sample_a_reader() {
    let older = upcast::STEPS.map(|(type_name, schema, _)| (type_name, schema));
    let readers = CURRENT.into_iter().chain(older).map(|(type_name, schema)| (type_name.to_owned(), schema));
    let readers: BTreeSet<_> = readers.collect();
    assert_eq!(corpus().into_keys().collect::<BTreeSet<_>>(), readers);
}
