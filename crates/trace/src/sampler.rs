//! Which traces are recorded.

use crate::{SpanId, TraceId};

/// Says which traces are recorded: one of the samplers that OpenTelemetry names, with its argument.
///
/// Whoever calls from outside chooses the id of the trace. So a sampler that is not to believe callers draws their requests by the
/// id of our own span, which nobody else chooses: otherwise an id that is known to be recorded could be sent every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    draw: Draw,
    believes_callers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draw {
    Always,
    Never,
    /// Below this, of 2^63.
    Below(u64),
}

/// There is no such sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownSampler;

impl Sampler {
    /// The names of all samplers.
    pub const NAMES: [&str; 6] = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];

    /// The sampler of this name, which records that part of the traces if it is one that draws.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(name: &str, ratio: f64) -> Result<Self, UnknownSampler> {
        let (name, believes_callers) =
            name.strip_prefix("parentbased_").map_or((name, false), |name| (name, true));
        let draw = match name {
            "always_on" => Draw::Always,
            "always_off" => Draw::Never,
            "traceidratio" if ratio >= 1.0 => Draw::Always,
            "traceidratio" => Draw::Below((ratio.max(0.0) * (1u64 << 63) as f64) as u64),
            _ => return Err(UnknownSampler),
        };
        Ok(Self { draw, believes_callers })
    }

    /// Nothing is recorded whatever anybody says.
    pub(crate) fn is_off(self) -> bool {
        self.draw == Draw::Never && !self.believes_callers
    }

    /// Whether a trace that begins here is recorded. By its id, so that everybody who draws as we do comes to the same.
    pub(crate) fn begins(self, trace: TraceId) -> bool {
        self.draw.takes(trace.0 as u64)
    }

    /// Whether a trace is recorded that a caller says is recorded or not; our span in it is `own`.
    pub(crate) fn follows(self, sampled: bool, own: SpanId) -> bool {
        if self.believes_callers { sampled } else { self.draw.takes(own.0) }
    }
}

impl Draw {
    fn takes(self, random: u64) -> bool {
        match self {
            Draw::Always => true,
            Draw::Never => false,
            Draw::Below(bound) => random >> 1 < bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(sampler: Sampler, sampled: bool, ids: impl Fn(u64) -> u64) -> usize {
        (0..1000).filter(|n| sampler.follows(sampled, SpanId(ids(*n)))).count()
    }

    /// Spread over all numbers.
    fn spread(n: u64) -> u64 {
        n.wrapping_mul(u64::MAX / 1000)
    }

    #[test]
    fn a_ratio_is_of_the_traces_that_begin_here() {
        for (ratio, expected) in [(0.0, 0), (0.25, 250), (1.0, 1000)] {
            for name in ["traceidratio", "parentbased_traceidratio"] {
                let sampler = Sampler::named(name, ratio).unwrap();
                let begun = (0..1000).filter(|n| sampler.begins(TraceId(spread(*n).into()))).count();
                assert!(begun.abs_diff(expected) <= 1, "{name} {ratio}: {begun}");
            }
        }
    }

    #[test]
    fn only_a_sampler_based_on_the_parent_believes_a_caller() {
        let believing = Sampler::named("parentbased_traceidratio", 0.1).unwrap();
        assert_eq!([true, false].map(|sampled| recorded(believing, sampled, spread)), [1000, 0]);
        let deaf = Sampler::named("traceidratio", 0.1).unwrap();
        for sampled in [true, false] {
            assert!(recorded(deaf, sampled, spread).abs_diff(100) <= 1, "by our own ids");
        }
        let off = Sampler::named("always_off", 1.0).unwrap();
        assert!(off.is_off() && recorded(off, true, spread) == 0);
        let on = Sampler::named("always_on", 0.0).unwrap();
        assert_eq!(recorded(on, false, spread), 1000);
    }

    #[test]
    fn every_sampler_that_is_named_is_known() {
        assert!(Sampler::NAMES.iter().all(|name| Sampler::named(name, 0.5).is_ok()));
        for wrong in ["", "jaeger_remote", "parentbased_", "parentbased_parentbased_always_on", "ALWAYS_ON"] {
            assert_eq!(Sampler::named(wrong, 1.0), Err(UnknownSampler), "{wrong}");
        }
    }
}
