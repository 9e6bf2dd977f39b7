//! raft-rs's own log, handed on to `tracing`.
//!
//! ```text
//! raft-rs ─slog→ RaftLog ─target "raft", one level down→ the process's subscriber
//! ```
//!
//! raft-rs tells each step of each election at `info`: with thousands of groups that is noise, and its
//! errors are what an operator should see. So `info` becomes `debug`, `debug` becomes `trace`, and
//! what is worse stays as it is. A line that nobody asked for is not put together.
//! Not here: what this crate logs by itself.

use std::fmt::{Arguments, Write};

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

use crate::ids::GroupId;

/// raft-rs's logger for one group's replica.
pub(crate) fn logger(group: GroupId) -> Logger {
    Logger::root(RaftLog, o!("group" => group.get()))
}

/// Where raft-rs's lines end.
struct RaftLog;

impl Drain for RaftLog {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        macro_rules! pass_on {
            ($level:expr) => {
                if tracing::enabled!(target: "raft", $level) {
                    tracing::event!(target: "raft", $level, "{}", line(record, values));
                }
            };
        }
        match record.level() {
            Level::Critical | Level::Error => pass_on!(tracing::Level::ERROR),
            Level::Warning => pass_on!(tracing::Level::WARN),
            Level::Info => pass_on!(tracing::Level::DEBUG),
            Level::Debug | Level::Trace => pass_on!(tracing::Level::TRACE),
        }
        Ok(())
    }
}

/// The message, and ` key=value` for each thing that is said beside it.
fn line(record: &Record<'_>, values: &OwnedKVList) -> String {
    struct Pairs(String);
    impl Serializer for Pairs {
        fn emit_arguments(&mut self, key: slog::Key, value: &Arguments<'_>) -> slog::Result {
            Ok(write!(self.0, " {key}={value}")?)
        }
    }
    let mut pairs = Pairs(record.msg().to_string());
    // Text takes whatever it is given.
    let _ = record.kv().serialize(record, &mut pairs);
    let _ = values.serialize(record, &mut pairs);
    pairs.0
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span;
    use tracing::subscriber::with_default;

    use super::*;

    /// Keeps the level and text of every event down to `debug`.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
            self.0 = format!("{value:?}");
        }
    }

    impl tracing::Subscriber for Kept {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::DEBUG
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut text = Text(String::new());
            event.record(&mut text);
            let (level, target) = (event.metadata().level(), event.metadata().target());
            self.0.lock().unwrap().push(format!("{level} {target} {}", text.0));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn lines_arrive_with_their_group_and_one_level_down() {
        let kept = Kept::default();
        with_default(kept.clone(), || {
            let logger = logger(GroupId::new(7));
            slog::error!(logger, "broken"; "term" => 3);
            slog::warn!(logger, "odd");
            slog::info!(logger, "became leader at term {}", 4);
            slog::debug!(logger, "not asked for");
        });
        let expected = [
            "ERROR raft broken term=3 group=7",
            "WARN raft odd group=7",
            "DEBUG raft became leader at term 4 group=7",
        ];
        assert_eq!(*kept.0.lock().unwrap(), expected);
    }
}
