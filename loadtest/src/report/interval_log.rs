//! The time series as an HdrHistogram interval log, version 2, compressed: one histogram for each
//! interval, which HistogramLogProcessor and its kin read.

use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::WriteError;
use crate::outcome::Outcome;

/// Of the latency from the intended send, in nanoseconds; the longest of each line in milliseconds.
/// Intervals of the warm-up carry the tag `warm-up`. Times count from the first send of the run.
pub fn interval_log(outcome: &Outcome) -> Result<Vec<u8>, WriteError> {
    let refused = |cause: String| WriteError::Form { what: "the interval log", cause };
    let warm_up = outcome.scenario.timing.warm_up;
    let first_send = SystemTime::UNIX_EPOCH
        + Duration::from_millis(outcome.started_unix_ms).saturating_sub(warm_up);
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("[Scenario: {}]", outcome.scenario.name))
        .with_start_time(first_send)
        .with_base_time(first_send)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut text, &mut serializer)
        .map_err(|error| refused(error.to_string()))?;
    for interval in &outcome.intervals {
        let tag = if interval.measured { None } else { Tag::new("warm-up") };
        let from = span(interval.from_seconds);
        let length = span(interval.seconds);
        log.write_histogram(&interval.from_intended.0, from, length, tag)
            .map_err(|error| refused(format!("{error:?}")))?;
    }
    Ok(text)
}

/// Nothing for what is no length of time.
fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
