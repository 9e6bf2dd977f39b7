//! Environment: OpenTelemetry's variables, held against what this build can do before the SDK reads them.
//!
//! The SDK passes over what it does not understand and falls back to a default. Here it is an error: who
//! sets a sampler and misspells it would trace everything.
//!
//! Promise: an empty variable is one that is not set, as the specification says. Variables are looked at
//! only if traces are to be exported at all.
//! Not here: variables that have no wrong values, such as `OTEL_SERVICE_NAME`, and rarer ones, which the
//! SDK reads by its own rules.

use axum::http::Uri;

use super::OtlpError;

const GENERIC_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// A variable, what its value must satisfy, and that in words.
type Rule = (&'static str, fn(&str) -> bool, &'static str);

const RULES: [Rule; 12] = [
    (GENERIC_ENDPOINT, is_plain_url, ENDPOINT_RULE),
    (TRACES_ENDPOINT, is_plain_url, ENDPOINT_RULE),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", is_grpc, PROTOCOL_RULE),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", is_grpc, PROTOCOL_RULE),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", is_number, NUMBER_RULE),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", is_number, NUMBER_RULE),
    ("OTEL_BSP_SCHEDULE_DELAY", is_number, NUMBER_RULE),
    ("OTEL_BSP_MAX_QUEUE_SIZE", is_number, NUMBER_RULE),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", is_number, NUMBER_RULE),
    ("OTEL_TRACES_EXPORTER", is_exporter, "must be otlp or none"),
    ("OTEL_TRACES_SAMPLER", is_sampler, SAMPLER_RULE),
    ("OTEL_TRACES_SAMPLER_ARG", is_ratio, "must be a number from 0 to 1"),
];
const ENDPOINT_RULE: &str =
    "must be http://HOST:PORT of a collector that takes OTLP over gRPC, unencrypted";
const PROTOCOL_RULE: &str = "must be grpc, the one that this build speaks";
const NUMBER_RULE: &str = "must be a whole number above 0";
const SAMPLER_RULE: &str = "must be always_on, always_off, traceidratio, parentbased_always_on, \
     parentbased_always_off or parentbased_traceidratio";

/// Looks variables up.
pub(super) struct Environment<F>(F);

impl Environment<fn(&'static str) -> Option<String>> {
    /// This process's.
    pub(super) fn of_process() -> Self {
        Self(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }
}

impl<F: Fn(&'static str) -> Option<String>> Environment<F> {
    /// Whether traces are to be exported.
    ///
    /// # Errors
    /// A variable has a value that cannot be followed.
    pub(super) fn check(&self) -> Result<bool, OtlpError> {
        let names_endpoint = [GENERIC_ENDPOINT, TRACES_ENDPOINT].map(|name| self.get(name));
        let is_disabled =
            self.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if names_endpoint.iter().all(Option::is_none) || is_disabled {
            return Ok(false);
        }
        for (variable, is_right, rule) in RULES {
            if let Some(value) = self.get(variable).filter(|value| !is_right(value)) {
                return Err(OtlpError::Variable { variable, value, rule });
            }
        }
        Ok(self.get("OTEL_TRACES_EXPORTER").as_deref() != Some("none"))
    }

    fn get(&self, name: &'static str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

fn is_plain_url(value: &str) -> bool {
    let url = value.parse::<Uri>();
    url.is_ok_and(|url| url.scheme_str() == Some("http") && url.host().is_some())
}

fn is_grpc(value: &str) -> bool {
    value == "grpc"
}

fn is_number(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|number| number > 0)
}

fn is_exporter(value: &str) -> bool {
    matches!(value, "otlp" | "none")
}

fn is_sampler(value: &str) -> bool {
    let base = value.strip_prefix("parentbased_").unwrap_or(value);
    matches!(base, "always_on" | "always_off" | "traceidratio")
}

fn is_ratio(value: &str) -> bool {
    value.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&'static str, &str)]) -> Result<bool, String> {
        let find = |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Environment(find).check().map_err(|error| error.to_string())
    }

    const ON: (&str, &str) = (GENERIC_ENDPOINT, "http://127.0.0.1:4317");

    #[test]
    fn an_endpoint_turns_it_on() {
        assert_eq!(check(&[]), Ok(false));
        assert_eq!(check(&[(GENERIC_ENDPOINT, "")]), Ok(false));
        assert_eq!(check(&[ON]), Ok(true));
        assert_eq!(check(&[(TRACES_ENDPOINT, "http://collector:4317/")]), Ok(true));
        assert_eq!(check(&[ON, ("OTEL_SDK_DISABLED", "True")]), Ok(false));
        assert_eq!(check(&[ON, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        assert_eq!(check(&[("OTEL_TRACES_SAMPLER", "nonsense")]), Ok(false));
    }

    /// Goal: nonsense is refused by variable, value and rule. Method: each rule broken, and one kept.
    #[test]
    fn each_rule_is_named_when_it_is_broken() {
        for (variable, bad, good, said) in [
            (GENERIC_ENDPOINT, "127.0.0.1:4317", "http://[::1]:4317", "http://HOST:PORT"),
            (TRACES_ENDPOINT, "https://collector:4317", "http://collector", "unencrypted"),
            (GENERIC_ENDPOINT, "http://", "http://a:1", "http://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "grpc", "must be grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC", "grpc", "must be grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "10000", "whole number"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1", "1", "whole number"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0", "200", "whole number"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "2048", "whole number"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1.5", "512", "whole number"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp", "otlp or none"),
            ("OTEL_TRACES_SAMPLER", "parentbased", "parentbased_traceidratio", "always_on"),
            ("OTEL_TRACES_SAMPLER", "xray", "always_off", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.1", "0.25", "from 0 to 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN", "1", "from 0 to 1"),
        ] {
            let told = check(&[(variable, bad), ON]).expect_err(bad);
            for part in [variable, &format!("{bad:?}"), said] {
                assert!(told.contains(part), "{told} lacks {part}");
            }
            assert_eq!(check(&[(variable, good), ON]), Ok(true), "{variable}={good}");
        }
    }
}
