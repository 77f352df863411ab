//! The table in the end: each figure with its floor, the ratio, and what it cost.

use std::io::Write as _;
use std::time::Duration;

use super::usage::Cpu;

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Throughput.
    More,
    /// Latency.
    Less,
}

/// One measured thing.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// One ratio to the floor and one figure for each round.
    pub rounds: Vec<Round>,
    /// Latencies of the last round: half, and all but one in a hundred.
    pub latency: Option<(Duration, Duration)>,
    /// CPU time for each thing done, in the last round.
    pub cpu: Option<Cpu>,
    /// The ratio to reach.
    pub reach: f64,
    /// The ratio to aim for.
    pub aim: f64,
    /// Which side of the ratio is good.
    pub better: Better,
}

/// One round: the figure and the floor around it.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What the service did.
    pub figure: f64,
    /// What the floor did.
    pub floor: f64,
}

impl Round {
    fn ratio(self) -> f64 {
        self.figure / self.floor
    }
}

/// Prints the rows on standard output.
pub fn print(title: &str, rows: &[Row], notes: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{title}\n")?;
    writeln!(
        out,
        "{:<44} {:>10} {:>10} {:<9} {:>6} {:>13} {:>6} {:>6}  {:<6} {:>16} {:>23}",
        "figure",
        "measured",
        "floor",
        "unit",
        "ratio",
        "range",
        "reach",
        "aim",
        "",
        "p50 / p99 ms",
        "us client/service/pg"
    )?;
    for row in rows {
        let mut rounds = row.rounds.clone();
        rounds.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let (Some(low), Some(middle), Some(high)) =
            (rounds.first(), rounds.get(rounds.len() / 2), rounds.last())
        else {
            continue;
        };
        let latency = row.latency.map_or_else(String::new, |(half, most)| {
            format!("{:.2} / {:.2}", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3)
        });
        let cpu = row.cpu.map_or_else(String::new, |cpu| {
            let [client, service, postgres] =
                [cpu.client, cpu.service, cpu.postgres].map(|time| time.as_secs_f64() * 1e6);
            format!("{client:.1} / {service:.1} / {postgres:.1}")
        });
        writeln!(
            out,
            "{:<44} {:>10.0} {:>10.0} {:<9} {:>6.2} {:>13} {:>6} {:>6}  {:<6} {:>16} {:>23}",
            row.name,
            middle.figure,
            middle.floor,
            row.unit,
            middle.ratio(),
            format!("{:.2} - {:.2}", low.ratio(), high.ratio()),
            row.reach,
            row.aim,
            row.verdict(middle.ratio()),
            latency,
            cpu,
        )?;
    }
    for note in notes {
        writeln!(out, "{note}")?;
    }
    Ok(())
}

impl Row {
    fn verdict(&self, ratio: f64) -> &'static str {
        let holds = |limit: f64| match self.better {
            Better::More => ratio >= limit,
            Better::Less => ratio <= limit,
        };
        if holds(self.aim) {
            "aim"
        } else if holds(self.reach) {
            "reach"
        } else {
            "MISSED"
        }
    }
}
