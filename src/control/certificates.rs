//! The certificates on the control core: watched, counted, and warned of before they end.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::probe::Counter;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tracing::warn;

use super::probe::ControlProbe;
use crate::certificates::{Candidate, CertificateError, Certificates, Expiry, TlsRules};

/// What is shown of the certificates. Written by the control core alone.
#[derive(Debug, Default)]
pub(super) struct CertificateCounts {
    replaced: Counter,
    expiries: ArcSwap<Vec<Expiry>>,
}

impl CertificateCounts {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Times that other certificates were taken.";
        let kind = MetricType::Counter;
        let metric =
            encoder.encode_descriptor("corelane_certificates_replaced", help, None, kind)?;
        ConstCounter::new(self.replaced.read()).encode(metric)?;
        let expiries = self.expiries.load();
        if expiries.is_empty() {
            return Ok(());
        }
        let (help, unit) = ("End of a certificate, Unix time.", Some(&Unit::Seconds));
        let kind = MetricType::Gauge;
        let mut metric =
            encoder.encode_descriptor("corelane_certificate_expiry", help, unit, kind)?;
        for Expiry { certificate, unix_seconds } in &**expiries {
            let labels = [("certificate", certificate.display().to_string())];
            ConstGauge::new(*unix_seconds).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The certificates, if a listener speaks TLS, and what is said of them.
pub(super) struct Watch {
    certificates: Option<Certificates>,
    probe: Arc<ControlProbe>,
    warnings: Warnings,
}

impl Watch {
    pub(super) fn new(certificates: Option<Certificates>, probe: Arc<ControlProbe>) -> Self {
        let watch = Self { certificates, probe, warnings: Warnings::default() };
        watch.show();
        watch
    }

    /// Takes changed files, and warns of certificates that end soon.
    pub(super) fn look(&mut self, now: Now) {
        let Some(certificates) = &mut self.certificates else { return };
        if certificates.poll() {
            self.probe.certificates.replaced.increment();
            self.show();
        }
        self.warn(now);
    }

    /// Reads what a new configuration names, and changes nothing.
    pub(super) fn read(
        &self,
        rules: Option<TlsRules>,
    ) -> Result<Option<Candidate>, CertificateError> {
        // Whether TLS is spoken at all does not change while the process lives.
        self.certificates.as_ref().zip(rules).map(|(now, rules)| now.read(rules)).transpose()
    }

    pub(super) fn take(&mut self, new: Option<Candidate>) {
        let Some((certificates, new)) = self.certificates.as_mut().zip(new) else { return };
        if certificates.take(new) {
            self.probe.certificates.replaced.increment();
        }
        self.show();
    }

    fn show(&self) {
        if let Some(certificates) = &self.certificates {
            let expiries = Arc::new(certificates.expiries().to_vec());
            self.probe.certificates.expiries.store(expiries);
        }
    }

    fn warn(&mut self, now: Now) {
        let Some(certificates) = &self.certificates else { return };
        for Expiry { certificate, unix_seconds } in &*certificates.expiries() {
            let Some(left) = self.warnings.due(certificate, *unix_seconds, now) else { continue };
            let file = certificate.display();
            if left.is_zero() {
                warn!(%file, "certificate has ended, clients refuse it: put a new one in its place");
            } else {
                let days = left.as_secs() / DAY.as_secs();
                warn!(%file, days, "certificate ends soon: put a new one in its place");
            }
        }
    }
}

/// When each certificate was warned of last.
#[derive(Debug, Default)]
struct Warnings(HashMap<PathBuf, Instant>);

impl Warnings {
    /// The time that is left, if that is to be warned of now.
    fn due(&mut self, certificate: &Path, end_unix_seconds: i64, now: Now) -> Option<Duration> {
        let end = Duration::from_secs(u64::try_from(end_unix_seconds).unwrap_or(0));
        let left = end.saturating_sub(Duration::from_millis(now.unix_ms));
        let last = self.0.get(certificate);
        if left > WARNED_BEFORE || last.is_some_and(|last| now.mono.since(*last) < DAY) {
            return None;
        }
        self.0.insert(certificate.to_owned(), now.mono);
        Some(left)
    }
}

const DAY: Duration = Duration::from_secs(86_400);
const WARNED_BEFORE: Duration = Duration::from_secs(14 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 2_000_000_000;

    /// So long before the end, on a machine that has run as long as it takes.
    fn before(left: Duration) -> Now {
        let unix = Duration::from_secs(END) - left;
        Now { mono: Instant(0) + unix, unix_ms: unix.as_millis() as u64 }
    }

    #[test]
    fn a_certificate_is_warned_of_once_a_day_from_two_weeks_before_its_end() {
        let mut warnings = Warnings::default();
        let mut due = |file: &str, left| warnings.due(Path::new(file), END as i64, before(left));
        let second = Duration::from_secs(1);
        assert_eq!(due("a", 15 * DAY), None);
        assert_eq!(due("a", 14 * DAY + second), None);
        assert_eq!(due("a", 14 * DAY), Some(14 * DAY));
        assert_eq!(due("a", 14 * DAY - second), None);
        assert_eq!(due("b", 14 * DAY - second), Some(14 * DAY - second));
        assert_eq!(due("a", 13 * DAY + second), None);
        assert_eq!(due("a", 13 * DAY), Some(13 * DAY));
        assert_eq!(due("a", Duration::ZERO), Some(Duration::ZERO));
        let mut late = before(Duration::ZERO);
        late.mono = late.mono + 2 * DAY;
        late.unix_ms += 2 * 86_400_000;
        assert_eq!(warnings.due(Path::new("a"), END as i64, late), Some(Duration::ZERO));
    }
}
