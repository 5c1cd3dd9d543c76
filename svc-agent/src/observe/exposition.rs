//! The two text formats of Prometheus. The registry writes OpenMetrics; scrapers that do not ask for it get the old
//! format, in which counters are declared with their suffix and there is no type `info` and no end mark.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposition {
    OpenMetrics,
    Text,
}

impl Exposition {
    /// By the Accept header of the scraper.
    pub fn negotiate(accept: Option<&str>) -> Self {
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, registry)?;
        Ok(match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => to_text(&open_metrics),
        })
    }
}

/// End of a bucket's bound in OpenMetrics, which others write without a fraction: sums by bound must find equal texts.
const WHOLE_BOUND: &str = ".0\"";

fn to_text(open_metrics: &str) -> String {
    let mut output = String::with_capacity(open_metrics.len());
    // HELP comes before TYPE, and only TYPE says which suffix the name has.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                output.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            output.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if let Some((before, after)) = line.split_once(WHOLE_BOUND).filter(|_| line.contains("_bucket{le=\"")) {
            output.extend([before, "\"", after, "\n"]);
        } else if !line.starts_with('#') {
            output.extend([line, "\n"]);
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.register("requests", "Requests", Counter::<u64>::default());
        registry.register("size", "Size", Gauge::<i64>::default());
        registry.register("build", "Build", Info::new([("version", "1.0")]));
        registry.register("time", "Time", Histogram::new([0.5, 2.0]));
        registry
    }

    #[test]
    fn old_scrapers_get_types_and_names_that_match() {
        assert_eq!(
            Exposition::negotiate(Some("text/plain;version=0.0.4")).encode(&registry()).unwrap(),
            "# HELP requests_total Requests.\n# TYPE requests_total counter\nrequests_total 0\n\
             # HELP size Size.\n# TYPE size gauge\nsize 0\n\
             # HELP build_info Build.\n# TYPE build_info gauge\nbuild_info{version=\"1.0\"} 1\n\
             # HELP time Time.\n# TYPE time histogram\ntime_sum 0.0\ntime_count 0\n\
             time_bucket{le=\"0.5\"} 0\ntime_bucket{le=\"2\"} 0\ntime_bucket{le=\"+Inf\"} 0\n"
        );
    }

    #[test]
    fn those_who_ask_for_open_metrics_get_it() {
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        let text = Exposition::negotiate(Some(accept)).encode(&registry()).unwrap();
        assert!(text.contains("# TYPE requests counter\nrequests_total 0\n"));
        assert!(text.ends_with("# EOF\n"));
    }
}
