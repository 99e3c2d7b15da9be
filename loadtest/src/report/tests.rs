use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::*;
use crate::judge::judge;
use crate::outcome::{Series, synthetic};

fn judged_trouble() -> Outcome {
    let mut outcome = synthetic::troubled(6, 2000);
    judge(&mut outcome);
    outcome
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = judged_trouble();
    let written = write_all(&outcome, &folder.path().join("deep")).unwrap();
    let read = read(&written.result).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&outcome).unwrap());
    for path in [&written.latency, &written.latency_from_send, &written.intervals, &written.page] {
        assert!(fs::metadata(path).unwrap().len() > 100, "{path:?}");
    }
}

#[test]
fn another_format_and_a_damaged_file_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    fs::write(&path, r#"{"format": 99, "future": true}"#).unwrap();
    let error = read(&path).unwrap_err();
    assert!(matches!(error, ReadError::Format { found: 99, .. }), "{error}");
    fs::write(&path, r#"{"format": 1}"#).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("result.json") && error.contains("missing field"), "{error}");
    let error = read(&folder.path().join("nothing.json")).unwrap_err().to_string();
    assert!(error.contains("nothing.json"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_all(&judged_trouble(), &file.join("below")).unwrap_err().to_string();
    assert!(error.contains("below"), "{error}");
}

/// As the original prints it, but for the digits after the point.
#[test]
fn the_percentile_distribution_has_the_lines_that_plotting_tools_expect() {
    let mut series = Series::new();
    for thousands in 1..=1000 {
        series.record(thousands * 1_000_000);
    }
    let text = percentile_distribution(&series);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
    assert_eq!(lines[1], "");
    assert_eq!(lines[2], "    1.000447 0.000000000000          1           1.00");
    assert!(lines.contains(&"  500.170751 0.500000000000        500           2.00"), "{text}");
    let end = &lines[lines.len() - 4..];
    assert!(end[0].ends_with("1.000000000000       1000"), "{text}");
    assert_eq!(end[1], "#[Mean    =      500.500, StdDeviation   =      288.675]");
    assert_eq!(end[2], "#[Max     =     1000.342, Total count    =         1000]");
    assert_eq!(end[3], "#[Buckets =           32, SubBuckets     =         2048]");
}

#[test]
fn an_empty_distribution_has_its_head_and_its_end() {
    let text = percentile_distribution(&Series::new());
    assert!(text.starts_with("       Value") && text.contains("Total count    =            0"));
}

#[test]
fn the_interval_log_has_every_interval_with_its_times() {
    let outcome = judged_trouble();
    let log = interval_log(&outcome).unwrap();
    let mut lengths = Vec::new();
    let mut tagged = 0;
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            lengths.push(interval.start_timestamp().as_secs());
            tagged += usize::from(interval.tag().is_some());
        }
    }
    assert_eq!(lengths, (0..8).collect::<Vec<u64>>());
    assert_eq!(tagged, synthetic::WARM_UP_INTERVALS);
}

#[test]
fn the_summary_begins_with_the_verdict_and_its_reasons() {
    let text = summary(&judged_trouble());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "FAILED  echo");
    assert!(lines[1].starts_with("  * 3 of"), "{text}");
    for part in ["from the intended send", "refused: 503", "does not hold", "47\u{202f}600/s"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn the_page_escapes_every_text() {
    let mut outcome = judged_trouble();
    let hostile = "<script>alert('&')</script>";
    outcome.scenario.name = hostile.to_owned();
    outcome.scenario.description = hostile.to_owned();
    outcome.scenario.target.url = hostile.to_owned();
    outcome.errors.insert(hostile.to_owned(), 1);
    outcome.handshakes.insert(hostile.to_owned(), 1);
    outcome.judgement.reasons.push(hostile.to_owned());
    outcome.judgement.notes.push(hostile.to_owned());
    outcome.generators[0].host = hostile.to_owned();
    outcome.search.as_mut().unwrap().limit = hostile.to_owned();
    let page = page(&outcome).unwrap();
    assert!(!page.contains("<script"), "a text came through unescaped");
    assert!(page.matches("alert(").count() >= 10);
}

#[test]
fn the_page_needs_no_other_resource() {
    let page = page(&judged_trouble()).unwrap();
    for outside in ["src=", "href=", "@import", "url(", "http://", "https://"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn charts_hold_finite_numbers_only() {
    let mut outcome = judged_trouble();
    outcome.intervals[3].from_intended = Series::new();
    outcome.intervals[4].seconds = 0.0;
    let page = page(&outcome).unwrap();
    assert!(page.contains("<polyline"));
    assert!(!page.contains("NaN") && !page.contains("inf\"") && !page.contains("inf,"));
}

#[test]
fn an_outcome_without_any_time_still_makes_a_page() {
    let mut outcome = judged_trouble();
    outcome.intervals.clear();
    outcome.latency.from_intended = Series::new();
    outcome.measured_seconds = 0.0;
    outcome.search = None;
    outcome.server = None;
    judge(&mut outcome);
    let page = page(&outcome).unwrap();
    assert!(page.contains("Failed") && !page.contains("<polyline"));
    assert!(!summary(&outcome).contains("NaN"));
}
