//! What systemd is told, and the two times it tells us. Outside systemd every call does nothing.

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use sd_notify::NotifyState;
use tracing::warn;

pub fn notify_ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Followed by [`notify_ready`] when the reload has ended, well or not.
pub fn notify_reloading() {
    // `Type=notify-reload` needs the moment too.
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => notify(&[NotifyState::Reloading, moment]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// `status` is what `systemctl status` shows.
pub fn notify_stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

pub fn notify_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// How often the watchdog wants to hear from us: half of its limit.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

/// `TimeoutStopSec=` of the unit that this process is; `None` when there is no such unit, when it
/// cannot be asked, or when it waits for ever. Blocks for two seconds at most: for start-up only.
#[must_use]
pub fn stop_timeout() -> Option<Duration> {
    env::var_os("NOTIFY_SOCKET")?;
    let unit = unit_of_cgroup(&fs::read_to_string("/proc/self/cgroup").ok()?)?.to_owned();
    let (answer, answered) = mpsc::channel();
    let ask = move || {
        let mut show = Command::new("systemctl");
        show.args(["show", "--property=TimeoutStopUSec", "--value", "--", &unit]);
        if let Ok(output) = show.output() {
            // Nobody listens once the time is up.
            drop(answer.send(output.stdout));
        }
    };
    thread::Builder::new().name("ask-systemd".into()).spawn(ask).ok()?;
    let text = answered.recv_timeout(Duration::from_secs(2)).ok()?;
    parse_span(str::from_utf8(&text).ok()?.trim())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(reason) = sd_notify::notify(states) {
        warn!(%reason, "systemd does not take our notification");
    }
}

/// The innermost service of the unified hierarchy's line, `0::/system.slice/corelane.service`.
fn unit_of_cgroup(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|part| part.ends_with(".service"))
}

/// A time span as systemd prints it: `1min 30s`, `500ms`, `infinity`.
fn parse_span(text: &str) -> Option<Duration> {
    if text.is_empty() || text == "infinity" {
        return None;
    }
    let part = |part: &str| {
        let unit_at = part.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = part.split_at(unit_at);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
    };
    text.split_ascii_whitespace()
        .map(part)
        .try_fold(Duration::ZERO, |sum, part| sum.checked_add(part?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_systemd_prints_them() {
        let seconds = |text| parse_span(text).map(|span| span.as_secs_f64());
        assert_eq!(seconds("1min 30s"), Some(90.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        assert_eq!(seconds("1h 5min 2s 250ms"), Some(3902.25));
        assert_eq!(seconds("2.5s"), Some(2.5));
    }

    #[test]
    fn spans_without_end_or_sense_are_unknown() {
        for text in ["", "infinity", "90", "s", "1 fortnight", "1e400s", "..s"] {
            assert_eq!(parse_span(text), None, "{text}");
        }
    }

    #[test]
    fn the_unit_is_the_innermost_service_of_the_control_group() {
        assert_eq!(unit_of_cgroup("0::/system.slice/corelane.service\n"), Some("corelane.service"));
        assert_eq!(
            unit_of_cgroup("1:name=systemd:/x\n0::/system.slice/edge@1.service/workers\n"),
            Some("edge@1.service")
        );
        assert_eq!(unit_of_cgroup("0::/user.slice/session-1.scope\n"), None);
    }
}
