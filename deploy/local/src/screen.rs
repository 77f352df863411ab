//! What the user sees on standard error: spinners and bars on a terminal, plain lines everywhere else.

use std::fmt::{self, Display};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use tokio::time::Instant;

/// Time between two lines of a bar where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);

/// Where progress is shown.
#[derive(Clone, Debug)]
pub struct Screen(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Terminal(MultiProgress),
    Lines,
    Hidden,
}

impl Screen {
    /// Standard error, as a terminal if it is one.
    #[must_use]
    pub fn stderr() -> Self {
        Self(if std::io::stderr().is_terminal() { Kind::Terminal(MultiProgress::new()) } else { Kind::Lines })
    }

    /// Shows nothing, for tests.
    #[must_use]
    pub fn hidden() -> Self {
        Self(Kind::Hidden)
    }

    /// Whether what is shown moves.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.0, Kind::Terminal(_))
    }

    /// One line of text above whatever moves.
    pub fn line(&self, text: impl Display) {
        match &self.0 {
            // Nowhere to report that the screen is gone.
            Kind::Terminal(bars) => drop(bars.println(text.to_string())),
            Kind::Lines => drop(writeln!(std::io::stderr(), "{text}")),
            Kind::Hidden => (),
        }
    }

    /// Begins a step of unknown length.
    #[must_use]
    pub fn step(&self, name: &'static str) -> Step {
        let spinner = match &self.0 {
            Kind::Terminal(bars) => {
                let spinner = bars.add(ProgressBar::new_spinner());
                spinner.set_style(style("{spinner} {prefix:14} {wide_msg}"));
                spinner.set_prefix(name);
                spinner.enable_steady_tick(TICK);
                Some(spinner)
            }
            Kind::Lines | Kind::Hidden => None,
        };
        Step { screen: self.clone(), name, spinner, begun: Instant::now() }
    }

    /// Begins a step of known length, counted in `unit`.
    #[must_use]
    pub fn bar(&self, name: &'static str, total: u64, unit: &'static str) -> Bar {
        let drawn = match &self.0 {
            Kind::Terminal(bars) => {
                let bar = bars.add(ProgressBar::new(total));
                bar.set_style(style(
                    "  {prefix:14} [{bar:24}] {human_pos}/{human_len} {msg}, {rate}, {eta} left",
                ));
                bar.set_prefix(name);
                bar.set_message(unit);
                Some(bar)
            }
            Kind::Lines | Kind::Hidden => None,
        };
        let begun = Instant::now();
        Bar { screen: self.clone(), name, unit, total, drawn, begun, state: Mutex::new((0, begun)) }
    }
}

fn style(template: &str) -> ProgressStyle {
    let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
        // A number that cannot be written is not shown.
        write!(text, "{:.0}/s", state.per_sec()).ok();
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .progress_chars("=> ")
}

/// A step of unknown length. Dropped without [`Step::done`] it just leaves the screen.
#[derive(Debug)]
pub struct Step {
    screen: Screen,
    name: &'static str,
    spinner: Option<ProgressBar>,
    begun: Instant,
}

impl Step {
    /// Says what is going on now.
    pub fn report(&self, text: impl Display) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.to_string()),
            None => self.screen.line(format_args!("{:14} {text}", self.name)),
        }
    }

    /// Ends the step with its result and the time it took.
    pub fn done(self, text: impl Display) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        self.screen.line(format_args!("{:14} {text} ({seconds:.1} s)", self.name));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// A step of known length.
#[derive(Debug)]
pub struct Bar {
    screen: Screen,
    name: &'static str,
    unit: &'static str,
    total: u64,
    drawn: Option<ProgressBar>,
    begun: Instant,
    state: Mutex<(u64, Instant)>,
}

impl Bar {
    /// Moves the bar to `position`.
    pub fn set(&self, position: u64) {
        self.advance_to(|_| position);
    }

    /// Moves the bar forward by `count`.
    pub fn add(&self, count: u64) {
        self.advance_to(|position| position + count);
    }

    fn advance_to(&self, next: impl FnOnce(u64) -> u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.0 = next(state.0);
        if let Some(bar) = &self.drawn {
            bar.set_position(state.0);
        } else if state.1.elapsed() >= LINE_INTERVAL {
            state.1 = Instant::now();
            let line = progress_line(self.name, self.unit, state.0, self.total, self.begun.elapsed());
            self.screen.line(line);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.drawn {
            bar.finish_and_clear();
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn progress_line(name: &str, unit: &str, position: u64, total: u64, elapsed: Duration) -> String {
    let rate = position as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let left = total.saturating_sub(position) as f64 / rate.max(f64::MIN_POSITIVE);
    let percent = position * 100 / total.max(1);
    if position == 0 {
        return format!("{name:14} 0 of {total} {unit}");
    }
    format!("{name:14} {position} of {total} {unit} ({percent} %), {rate:.0}/s, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_rate_and_time_left() {
        let line = progress_line("orders", "orders", 500, 2000, Duration::from_secs(5));
        assert_eq!(line, "orders         500 of 2000 orders (25 %), 100/s, 15 s left");
        assert_eq!(progress_line("orders", "orders", 0, 9, Duration::ZERO), "orders         0 of 9 orders");
    }
}
