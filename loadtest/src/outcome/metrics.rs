//! The value that an outcome has for each metric, and what a metric is called and measured in. What
//! a value must be is in `judge`.

use super::Outcome;
use crate::scenario::{Metric, Traffic};

impl Outcome {
    /// Nothing if the run did not measure it.
    pub fn value_of(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::P50Us => self.latency_us(0.5),
            Metric::P90Us => self.latency_us(0.9),
            Metric::P99Us => self.latency_us(0.99),
            Metric::P999Us => self.latency_us(0.999),
            Metric::MaxUs => self.latency_us(1.0),
            // Elsewhere connections are opened before the plan begins, so no time to readiness
            // from an intended start exists.
            Metric::ReadyP99Us if self.opens_connections_by_plan() => self.latency_us(0.99),
            Metric::ReadyP99Us => None,
            Metric::Rate => self.rate(),
            Metric::Faults => Some(self.messages.faults() as f64),
            Metric::Errors => Some(self.error_count() as f64),
            Metric::Unanswered => Some(self.unanswered() as f64),
            Metric::ServerCpuUsPerMessage => self.server.as_ref()?.cpu_us_per_message,
            Metric::ServerBytesPerConnection => self.server.as_ref()?.bytes_per_connection,
            Metric::ServerBytesGrown => self.server.as_ref()?.bytes_grown(),
        }
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Of the connections that failed, those that no status explains.
    pub fn unanswered(&self) -> u64 {
        let refused = self.errors.iter().filter(|(kind, _)| kind.starts_with("refused: "));
        self.connections.failed.saturating_sub(refused.map(|(_, count)| count).sum())
    }

    /// Of sent messages per second within the measurement.
    pub fn sent_rate(&self) -> Option<f64> {
        let measured = self.intervals.iter().filter(|interval| interval.measured);
        let (sent, seconds) =
            measured.fold((0, 0.0), |(sent, seconds), i| (sent + i.sent, seconds + i.seconds));
        (seconds > 0.0).then(|| sent as f64 / seconds)
    }

    /// The events of the plan are connections, and latency is the time until they are ready.
    pub fn opens_connections_by_plan(&self) -> bool {
        matches!(self.scenario.traffic, Traffic::Connect { .. } | Traffic::Reconnect { .. })
    }

    fn latency_us(&self, quantile: f64) -> Option<f64> {
        let series = &self.latency.from_intended;
        (!series.0.is_empty()).then(|| series.quantile_us(quantile))
    }

    fn rate(&self) -> Option<f64> {
        (self.measured_seconds > 0.0).then(|| self.messages.measured as f64 / self.measured_seconds)
    }
}

impl super::ServerUse {
    /// Negative, if it has given memory back meanwhile.
    pub fn bytes_grown(&self) -> Option<f64> {
        Some(self.bytes_after? as f64 - self.bytes_with_connections? as f64)
    }
}

impl super::MessageCounts {
    /// Lost, duplicated, reordered and corrupted together.
    pub fn faults(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.corrupted
    }
}

impl Metric {
    /// As it reads within a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Self::P50Us => "p50 latency",
            Self::P90Us => "p90 latency",
            Self::P99Us => "p99 latency",
            Self::P999Us => "p99.9 latency",
            Self::MaxUs => "longest latency",
            Self::ReadyP99Us => "p99 time until ready",
            Self::Rate => "rate",
            Self::Faults => "faults",
            Self::Errors => "errors",
            Self::Unanswered => "connections without an answer",
            Self::ServerCpuUsPerMessage => "server processor time per message",
            Self::ServerBytesPerConnection => "server memory per connection",
            Self::ServerBytesGrown => "growth of the server's memory under the load",
        }
    }

    /// What a value counts in.
    pub fn dimension(self) -> Dimension {
        match self {
            Self::P50Us
            | Self::P90Us
            | Self::P99Us
            | Self::P999Us
            | Self::MaxUs
            | Self::ReadyP99Us
            | Self::ServerCpuUsPerMessage => Dimension::Microseconds,
            Self::Rate => Dimension::PerSecond,
            Self::Faults | Self::Errors | Self::Unanswered => Dimension::Count,
            Self::ServerBytesPerConnection | Self::ServerBytesGrown => Dimension::Bytes,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    Microseconds,
    PerSecond,
    Count,
    Bytes,
}
