//! Trace context: names the span, of a caller's trace, that a sampled proposal belongs to.
//!
//! ```text
//! traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!         version │                       trace id │        span id │ └ flags: bit 0, sampled
//! ```
//!
//! Promise: whoever holds one has been sampled, and neither id is zero. It says where measurements
//! go and decides nothing.
//! Not here: who samples, and what is measured.
//! Source: W3C Trace Context, Recommendation of 23 November 2021, sections 3.2 and 4.3.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// The span that a sampled call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: NonZeroU128,
    /// The span within it.
    pub span_id: NonZeroU64,
}

/// Length of a version 00 `traceparent`; later versions may add fields behind a dash.
const TRACEPARENT_LEN: usize = 55;
const SAMPLED: u8 = 1;

impl TraceContext {
    /// What the HTTP header `traceparent` says. `None` if it is malformed, which is to be treated as
    /// if it were absent, or if the caller is not sampled.
    pub fn from_traceparent(header: &str) -> Option<Self> {
        let (fields, later) = header.split_at_checked(TRACEPARENT_LEN)?;
        let mut parts = fields.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)?;
        let flags = hex(parts.next()?, 2)?;
        let may_go_on = version > 0 && later.starts_with('-');
        let is_whole = parts.next().is_none() && (later.is_empty() || may_go_on);
        if !is_whole || version == 0xff || flags & u128::from(SAMPLED) == 0 {
            return None;
        }
        let span_id = u64::try_from(span_id).expect("16 digits are 64 bits");
        Some(Self { trace_id: NonZeroU128::new(trace_id)?, span_id: NonZeroU64::new(span_id)? })
    }
}

/// As a `traceparent` of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{SAMPLED:02x}")
    }
}

/// The value of exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != digits || !is_hex {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn example() -> TraceContext {
        TraceContext {
            trace_id: NonZeroU128::new(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736).unwrap(),
            span_id: NonZeroU64::new(0x00f0_67aa_0ba9_02b7).unwrap(),
        }
    }

    /// Goal: ids keep their leading zeros. Method: the specification's example, there and back.
    #[test]
    fn a_sampled_parent_is_read_and_written() {
        assert_eq!(TraceContext::from_traceparent(GOOD), Some(example()));
        assert_eq!(example().to_string(), GOOD);
    }

    #[test]
    fn flags_beside_the_sampled_one_do_not_matter() {
        let with = |flags| TraceContext::from_traceparent(&GOOD.replace("-01", flags));
        assert_eq!(with("-ff"), Some(example()));
        assert_eq!((with("-00"), with("-fe")), (None, None));
    }

    #[test]
    fn a_later_version_may_go_on_behind_a_dash() {
        let with = |version, rest| {
            let rest_of = GOOD.strip_prefix("00").unwrap();
            TraceContext::from_traceparent(&format!("{version}{rest_of}{rest}"))
        };
        assert_eq!(with("01", ""), Some(example()));
        assert_eq!(with("cc", "-what-else"), Some(example()));
        assert_eq!((with("01", "what"), with("00", "-what")), (None, None));
        assert_eq!(with("ff", ""), None);
    }

    /// Goal: what is malformed is no parent, and nothing panics. Method: one fault each.
    #[test]
    fn what_is_malformed_is_ignored() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let (zero, span) = ("0".repeat(32), "00f067aa0ba902b7");
        for header in [
            String::new(),
            "00".to_owned(),
            GOOD[..54].to_owned(),
            format!("{GOOD} "),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            format!("00-{zero}-{span}-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{trace}-{span}-+1"),
            format!("0g-{trace}-{span}-01"),
            format!("00-{trace}{span}--01"),
            format!("00-{}-{span}a-01", &trace[1..]),
            format!("00-{}-{span}-01", trace.replace('4', "\u{e9}")),
            "\u{1f980}".repeat(14),
            "-".repeat(TRACEPARENT_LEN),
        ] {
            assert_eq!(TraceContext::from_traceparent(&header), None, "{header:?}");
        }
    }
}
