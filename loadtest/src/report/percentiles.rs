//! The percentile distribution of one series as HdrHistogram's `outputPercentileDistribution`
//! prints it, in milliseconds: what plotting tools for `.hgrm` files read.

use std::fmt::Write;

use crate::outcome::Series;

/// Steps between each percentile and the one halfway to 100 % from it.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
const NS_PER_MS: f64 = 1e6;

/// Six digits after the point, where the original has as many as the histogram's precision: times
/// far below a millisecond keep theirs too.
pub fn percentile_distribution(series: &Series) -> String {
    let histogram = &series.0;
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / NS_PER_MS;
        let quantile = step.quantile_iterated_to();
        line(&mut text, format_args!("{value:12.6} {quantile:.12} {count:10}"));
        if quantile < 1.0 {
            line(&mut text, format_args!(" {:14.2}", 1.0 / (1.0 - quantile)));
        }
        text.push('\n');
    }
    line(
        &mut text,
        format_args!(
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n",
            histogram.mean() / NS_PER_MS,
            histogram.stdev() / NS_PER_MS
        ),
    );
    line(
        &mut text,
        format_args!(
            "#[Max     = {:12.3}, Total count    = {:12}]\n",
            histogram.max() as f64 / NS_PER_MS,
            histogram.len()
        ),
    );
    line(
        &mut text,
        format_args!(
            "#[Buckets = {:12}, SubBuckets     = {:12}]\n",
            histogram.buckets(),
            sub_buckets(histogram.sigfig())
        ),
    );
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    text.write_fmt(content).expect("a String takes all that is written");
}

/// The power of two that tells `digits` significant digits apart.
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10_u64.pow(digits.into())).next_power_of_two()
}
