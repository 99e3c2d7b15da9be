//! Histograms of one shape, and how they are written into JSON: HdrHistogram V2, deflated, base64,
//! beside a few figures for readers without a decoder.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{
    Deserializer as HdrDeserializer, Serializer as _, V2DeflateSerializer,
};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Series;

/// Longest time that is told apart from longer ones.
const MAX_NS: u64 = 3_600_000_000_000;

impl Default for Series {
    fn default() -> Self {
        Self::new()
    }
}

impl Series {
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_NS, 3).expect("the bounds are valid"))
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all series have the same bounds");
    }

    /// `quantile` from 0 to 1; 0 µs if nothing was recorded.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    count: u64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    hdr_v2_deflate: String,
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(|error| S::Error::custom(format!("{error:?}")))?;
        let written = Written {
            count: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: self.0.max() as f64 / 1e3,
            hdr_v2_deflate: STANDARD.encode(bytes),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let bytes = STANDARD.decode(&written.hdr_v2_deflate).map_err(D::Error::custom)?;
        let read: Histogram<u64> = HdrDeserializer::new()
            .deserialize(&mut &bytes[..])
            .map_err(|error| D::Error::custom(format!("not a histogram: {error:?}")))?;
        let mut series = Self::new();
        series.0.add(&read).map_err(|error| D::Error::custom(format!("{error:?}")))?;
        Ok(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_comes_back_from_json_with_every_count() {
        let mut series = Series::new();
        for value in [1, 999, 1_000_000, 77_777_777, MAX_NS * 2] {
            series.record(value);
        }
        let text = serde_json::to_string(&series).unwrap();
        let read: Series = serde_json::from_str(&text).unwrap();
        assert_eq!(read, series);
        assert_eq!(read.0.len(), 5);
    }

    #[test]
    fn damaged_histograms_are_refused() {
        let mut value = serde_json::to_value(Series::new()).unwrap();
        value["hdr_v2_deflate"] = "AAAA".into();
        assert!(serde_json::from_value::<Series>(value).is_err());
    }
}
