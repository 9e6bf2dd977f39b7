//! Tests of the propose batcher: one per trigger and bound, and the property that nothing is lost.

use proptest::prelude::*;

use super::*;

type Batcher = ProposeBatcher<u32>;

fn batcher(config: BatchConfig) -> Batcher {
    Batcher::new(config).expect("valid")
}

fn at(micros: u64) -> Moment {
    Moment::new(Duration::from_micros(micros))
}

fn unit(commands: usize, bytes: usize) -> Unit {
    Unit { atomic: false, commands: vec![Bytes::from(vec![7; bytes]); commands] }
}

fn push(batcher: &mut Batcher, now: Moment, id: u32) {
    batcher.push(now, unit(1, 4), None, id).expect("room");
}

/// A batcher with one batch in flight, so that batches form.
fn busy(config: BatchConfig) -> Batcher {
    let mut batcher = batcher(config);
    push(&mut batcher, at(0), 0);
    assert_eq!(batcher.poll(at(0), 1).expect("idle").reason, FlushReason::Idle);
    batcher
}

fn ids(cut: &Cut<u32>) -> Vec<u32> {
    cut.waiters.iter().map(|(id, _)| *id).collect()
}

/// Goal: a lone unit never waits (BP-5). Method: poll at the very moment of the push.
#[test]
fn an_idle_group_flushes_at_once() {
    let mut batcher = batcher(BatchConfig::high_throughput());
    push(&mut batcher, at(5), 1);
    assert_eq!(batcher.next_wake(at(5)), Some(at(5)));
    let cut = batcher.poll(at(5), 1).expect("idle");
    assert_eq!((ids(&cut), cut.reason, cut.waited), (vec![1], FlushReason::Idle, Duration::ZERO));
    assert_eq!(batcher.poll(at(5), 1).map(|_| ()), None);
}

/// Goal: 100 proposals behind one in flight are one entry, in order (BP-2). Method: decode it.
#[test]
fn a_full_count_is_cut_as_one_entry() {
    let mut batcher = busy(BatchConfig::default());
    for id in 1..100 {
        push(&mut batcher, at(1), id);
        assert!(batcher.poll(at(1), 1).is_none(), "{id} units are not a full batch");
    }
    push(&mut batcher, at(1), 100);
    let cut = batcher.poll(at(1), 1).expect("full");
    assert_eq!((cut.reason, cut.commands), (FlushReason::Count, 100));
    assert_eq!(ids(&cut), (1..=100).collect::<Vec<_>>());
    assert_eq!(batch::decode(cut.batch).expect("valid").units.len(), 100);
}

/// Goal: bytes cut a batch that count would not. Method: two units of more than half.
#[test]
fn full_bytes_are_cut() {
    let mut batcher = busy(BatchConfig::tiny());
    batcher.push(at(1), unit(1, 40), None, 1).expect("room");
    assert!(batcher.poll(at(1), 1).is_none());
    batcher.push(at(1), unit(1, 40), None, 2).expect("room");
    let cut = batcher.poll(at(1), 1).expect("full");
    assert_eq!((ids(&cut), cut.reason), (vec![1], FlushReason::Bytes), "both would exceed 64");
}

/// Goal: the linger bounds the wait, and the wake-up says when. Method: poll just before and at it.
#[test]
fn the_linger_is_cut_on_time() {
    let mut batcher = busy(BatchConfig::default());
    push(&mut batcher, at(100), 1);
    assert_eq!(batcher.next_wake(at(100)), Some(at(1_100)));
    assert!(batcher.poll(at(1_099), 1).is_none());
    let cut = batcher.poll(at(1_100), 1).expect("lingered");
    assert_eq!((cut.reason, cut.waited), (FlushReason::Linger, Duration::from_millis(1)));
}

/// Goal: batches in flight are bounded, and a decided one lets the next go. Method: fill them.
#[test]
fn in_flight_is_bounded() {
    let mut batcher = busy(BatchConfig { linger: Duration::ZERO, ..BatchConfig::tiny() });
    push(&mut batcher, at(1), 1);
    assert!(batcher.poll(at(1), 1).is_some());
    push(&mut batcher, at(1), 2);
    assert!(batcher.poll(at(9_000), 1).is_none(), "two are in flight");
    assert_eq!(batcher.next_wake(at(9_000)), None, "only a decision helps");
    batcher.on_decided(at(9_000));
    assert!(batcher.poll(at(9_000), 1).is_some());
    assert_eq!(batcher.stats().in_flight, 2);
}

/// Goal: with batching off each unit is an entry (BP-7). Method: switch while units wait.
#[test]
fn off_makes_each_unit_an_entry() {
    let mut batcher = busy(BatchConfig::default());
    (1..=3).for_each(|id| push(&mut batcher, at(1), id));
    batcher.reconfigure(BatchConfig { enabled: false, ..BatchConfig::default() }).expect("valid");
    for id in 1..=3 {
        let cut = batcher.poll(at(1), 1).expect("off");
        assert_eq!((ids(&cut), cut.reason), (vec![id], FlushReason::Off));
    }
    assert!(batcher.reconfigure(BatchConfig { in_flight_max: 0, ..Default::default() }).is_err());
}

/// Goal: a unit is never split, even if larger than a batch should be. Method: 5 commands of 3.
#[test]
fn a_unit_is_never_split() {
    let mut batcher = busy(BatchConfig::tiny());
    push(&mut batcher, at(1), 1);
    batcher.push(at(1), unit(5, 1), None, 2).expect("room");
    let first = batcher.poll(at(1), 1).expect("count");
    assert_eq!(ids(&first), [1]);
    batcher.on_decided(at(1));
    let second = batcher.poll(at(1), 1).expect("count");
    assert_eq!((second.waiters, second.commands), (vec![(2, 5)], 5));
}

/// Goal: deadlines count while queued; the expired are handed back, not cut (BP-10). Method: a late
/// unit before, between and after live ones.
#[test]
fn expired_units_are_never_cut() {
    let mut batcher = busy(BatchConfig::default());
    for (id, deadline) in [(1, Some(50)), (2, None), (3, Some(50)), (4, Some(9_999))] {
        batcher.push(at(1), unit(1, 1), deadline.map(at), id).expect("room");
    }
    assert_eq!(batcher.next_wake(at(1)), Some(at(50)));
    assert_eq!(batcher.expire(at(49)), []);
    batcher.on_decided(at(50));
    let cut = batcher.poll(at(50), 1).expect("idle");
    assert_eq!(ids(&cut), [2, 4]);
    assert_eq!(batcher.next_wake(at(50)), Some(at(50)), "two waiters are to be told");
    assert_eq!(batcher.expire(at(50)), [1, 3]);
    assert_eq!(batcher.next_wake(at(50)), None);
    let refused = batcher.push(at(60), unit(1, 1), Some(at(60)), 9).expect_err("late");
    assert_eq!(refused, Refused { waiter: 9, reason: RefuseReason::Expired });
}

/// Goal: the queue is scanned once per interval, not per call. Method: two deadlines within one.
#[test]
fn sweeps_are_paced() {
    let mut batcher = busy(BatchConfig { in_flight_max: 1, ..BatchConfig::default() });
    batcher.push(at(1), unit(1, 1), None, 1).expect("room");
    batcher.push(at(1), unit(1, 1), Some(at(10)), 2).expect("room");
    batcher.push(at(1), unit(1, 1), Some(at(11)), 3).expect("room");
    assert_eq!(batcher.expire(at(10)), [2]);
    assert_eq!(batcher.next_wake(at(10)), Some(at(1_010)));
    assert_eq!(batcher.expire(at(12)), []);
    assert_eq!(batcher.expire(at(1_010)), [3]);
    assert_eq!(batcher.stats().pending_units, 1);
}

/// Goal: the queue is bounded by count and by bytes, but not against a first unit. Method: fill it.
#[test]
fn the_queue_is_bounded() {
    let mut batcher = batcher(BatchConfig::tiny());
    batcher.push(at(0), unit(9, 1), None, 0).expect("an empty queue takes any unit");
    let refused = batcher.push(at(0), unit(1, 1), None, 1).expect_err("full");
    assert_eq!(refused.reason, RefuseReason::QueueCommandsFull { max: 8 });
    assert!(batcher.poll(at(0), 1).is_some());
    batcher.push(at(0), unit(1, 200), None, 2).expect("room");
    let refused = batcher.push(at(0), unit(1, 60), None, 3).expect_err("full");
    assert_eq!(refused, Refused { waiter: 3, reason: RefuseReason::QueueBytesFull { max: 256 } });
}

/// Goal: sizes are checked before anything is queued (BP-16). Method: both sides of each limit.
#[test]
fn oversize_is_refused_at_the_boundary() {
    let mut batcher = batcher(BatchConfig::default());
    let reason = |result: Result<(), Refused<u32>>| result.expect_err("refused").reason;
    let length = |commands| RefuseReason::Length { commands };
    assert_eq!(reason(batcher.push(at(0), unit(0, 0), None, 0)), length(0));
    let many = BATCH_COMMANDS_MAX + 1;
    assert_eq!(reason(batcher.push(at(0), unit(many, 0), None, 0)), length(many));
    let one_over = batcher.push(at(0), unit(1, COMMAND_BYTES_MAX + 1), None, 0);
    assert!(matches!(reason(one_over), RefuseReason::TooLarge { max: COMMAND_BYTES_MAX, .. }));
    let sum_over = batcher.push(at(0), unit(2, COMMAND_BYTES_MAX / 2 + (40 << 10)), None, 0);
    assert!(matches!(reason(sum_over), RefuseReason::TooLarge { .. }));
    batcher.push(at(0), unit(1, COMMAND_BYTES_MAX), None, 1).expect("exactly the limit");
    let cut = batcher.poll(at(0), 1).expect("idle");
    assert!(cut.batch.len() <= ENTRY_BYTES_MAX);
}

/// Goal: the proposer's time never falls (AP-3). Method: a clock that jumps back.
#[test]
fn time_never_falls() {
    let mut batcher = batcher(BatchConfig::default());
    let mut stamp = |raise: u64, clock: u64| {
        batcher.raise_time(raise);
        push(&mut batcher, at(0), 0);
        let cut = batcher.poll(at(0), clock).expect("idle");
        batcher.on_decided(at(0));
        batch::decode(cut.batch).expect("valid").time_ms
    };
    assert_eq!([stamp(0, 100), stamp(0, 50), stamp(0, 101), stamp(200, 102)], [100, 100, 101, 200]);
}

/// Goal: stop hands back all and takes no more (BP-9). Method: one expired, one queued.
#[test]
fn stop_hands_back_everyone() {
    let mut batcher = busy(BatchConfig::default());
    batcher.push(at(1), unit(1, 1), Some(at(2)), 1).expect("room");
    push(&mut batcher, at(1), 2);
    assert_eq!(batcher.stop(), [1, 2]);
    let refused = batcher.push(at(3), unit(1, 1), None, 3).expect_err("stopped");
    assert_eq!(refused, Refused { waiter: 3, reason: RefuseReason::Stopped });
    let stats = batcher.stats();
    assert_eq!((stats.pending_units, stats.pending_commands, stats.pending_bytes), (0, 0, 0));
    assert_eq!((stats.failed_units, stats.refused_units, stats.in_flight), (2, 1, 1));
}

#[derive(Debug, Clone)]
enum Op {
    Push { commands: usize, bytes: usize, deadline: Option<u64> },
    Poll,
    Decide,
    Expire,
    Advance(u64),
    FailAll,
    Reconfigure(bool, usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let push = (0usize..5, 0usize..50, proptest::option::of(0u64..3_000))
        .prop_map(|(commands, bytes, deadline)| Op::Push { commands, bytes, deadline });
    prop_oneof![
        8 => push,
        6 => Just(Op::Poll),
        3 => Just(Op::Decide),
        2 => Just(Op::Expire),
        4 => (0u64..2_000).prop_map(Op::Advance),
        1 => Just(Op::FailAll),
        1 => (any::<bool>(), 1usize..8).prop_map(|(on, n)| Op::Reconfigure(on, n)),
    ]
}

/// Who has come back, and how; the model against which the batcher is held.
#[derive(Default)]
struct Ledger {
    pushed: u32,
    back: Vec<u32>,
    deadlines: Vec<Option<Moment>>,
}

impl Ledger {
    fn step(&mut self, batcher: &mut Batcher, now: &mut Moment, op: Op) {
        match op {
            Op::Push { commands, bytes, deadline } => {
                let deadline = deadline.map(|d| now.after(Duration::from_micros(d)));
                self.deadlines.push(deadline);
                let pushed = batcher.push(*now, unit(commands, bytes), deadline, self.pushed);
                self.back.extend(pushed.err().map(|refused| refused.waiter));
                self.pushed += 1;
            }
            Op::Poll => self.poll(batcher, *now),
            Op::Decide if batcher.stats().in_flight > 0 => batcher.on_decided(*now),
            Op::Decide => {}
            Op::Expire => self.back.extend(batcher.expire(*now)),
            Op::Advance(micros) => *now = now.after(Duration::from_micros(micros)),
            Op::FailAll => self.back.extend(batcher.fail_all()),
            Op::Reconfigure(enabled, n) => {
                let config = BatchConfig { enabled, in_flight_max: n, ..BatchConfig::tiny() };
                batcher.reconfigure(config).expect("valid");
            }
        }
    }

    fn poll(&mut self, batcher: &mut Batcher, now: Moment) {
        let Some(cut) = batcher.poll(now, 1) else { return };
        let decoded = batch::decode(cut.batch.clone()).expect("valid");
        let counts: Vec<_> = decoded.units.iter().map(|unit| unit.commands.len()).collect();
        assert_eq!(counts, cut.waiters.iter().map(|(_, n)| *n).collect::<Vec<_>>());
        for id in ids(&cut) {
            let deadline = self.deadlines[id as usize];
            assert!(deadline.is_none_or(|deadline| deadline > now), "{id} had expired");
            self.back.push(id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Goal: submitted = cut + expired + refused + handed back, each waiter once (BP-9). Method:
    /// random calls, then stop and count.
    #[test]
    fn every_waiter_comes_back_once(ops in proptest::collection::vec(any_op(), 1..80)) {
        let mut batcher = batcher(BatchConfig::tiny());
        let mut ledger = Ledger::default();
        let mut now = Moment::START;
        for op in ops {
            ledger.step(&mut batcher, &mut now, op);
            let stats = batcher.stats();
            prop_assert!(stats.pending_commands <= 8 || stats.pending_units == 1);
            prop_assert!(batcher.next_wake(now).is_none_or(|wake| wake >= now));
        }
        ledger.back.extend(batcher.stop());
        ledger.back.sort_unstable();
        prop_assert_eq!(&ledger.back, &(0..ledger.pushed).collect::<Vec<_>>());
        let s = batcher.stats();
        let ended = s.cut_units + s.expired_units + s.refused_units + s.failed_units;
        prop_assert_eq!(s.submitted_units, ended);
        prop_assert_eq!((s.pending_units, s.pending_commands, s.pending_bytes), (0, 0, 0));
    }
}

fn reason_of(result: Result<(), Refused<u32>>) -> RefuseReason {
    result.expect_err("refused").reason
}

#[test]
fn an_empty_batcher_has_nothing_to_cut_and_nothing_to_wait_for() {
    let mut batcher = batcher(BatchConfig::default());
    assert!(batcher.poll(at(5), 1).is_none());
    assert_eq!(batcher.next_wake(at(5)), None);
    assert_eq!(batcher.stats(), BatcherStats::default());
}

#[test]
fn a_batcher_refuses_a_configuration_that_cannot_be() {
    let config = BatchConfig { commands_max: 0, ..BatchConfig::default() };
    let error = Batcher::new(config).map(|_| ()).expect_err("no batch has 0 commands");
    let (field, max) = ("commands_max", BATCH_COMMANDS_MAX);
    assert_eq!(error, BatchConfigError::OutOfRange { field, value: 0, min: 1, max });
}

#[test]
fn a_refused_configuration_leaves_the_old_one() {
    let mut batcher = batcher(BatchConfig::tiny());
    assert!(batcher.reconfigure(BatchConfig { bytes_max: 0, ..BatchConfig::tiny() }).is_err());
    assert_eq!(batcher.config(), &BatchConfig::tiny());
}

#[test]
fn a_lowered_bound_keeps_what_is_queued_and_takes_no_more() {
    let mut batcher = busy(BatchConfig::default());
    (1..=9).for_each(|id| push(&mut batcher, at(1), id));
    batcher.reconfigure(BatchConfig::tiny()).expect("valid");
    let refused = reason_of(batcher.push(at(1), unit(1, 1), None, 10));
    assert_eq!(refused, RefuseReason::QueueCommandsFull { max: 8 });
    assert_eq!(batcher.stats().pending_units, 9);
}

#[test]
fn nothing_lingers_without_a_linger() {
    let mut batcher = busy(BatchConfig::low_latency());
    push(&mut batcher, at(1), 1);
    assert_eq!(batcher.poll(at(1), 1).map(|cut| cut.reason), Some(FlushReason::Linger));
}

#[test]
fn a_decided_batch_lets_the_next_go_without_lingering() {
    let mut batcher = busy(BatchConfig::default());
    push(&mut batcher, at(1), 1);
    assert!(batcher.poll(at(2), 1).is_none());
    batcher.on_decided(at(2));
    assert_eq!(batcher.poll(at(2), 1).map(|cut| cut.reason), Some(FlushReason::Idle));
}

#[test]
#[should_panic(expected = "was in flight")]
fn deciding_what_was_never_cut_is_a_bug() {
    batcher(BatchConfig::default()).on_decided(at(0));
}

#[test]
fn a_count_before_a_linger_names_the_count() {
    let mut batcher = busy(BatchConfig::tiny());
    (1..=3).for_each(|id| push(&mut batcher, at(1), id));
    assert_eq!(batcher.poll(at(9_000), 1).map(|cut| cut.reason), Some(FlushReason::Count));
}

#[test]
fn what_does_not_fit_waits_for_the_next_batch() {
    let mut batcher = busy(BatchConfig::tiny());
    (1..=4).for_each(|id| push(&mut batcher, at(1), id));
    assert_eq!(ids(&batcher.poll(at(1), 1).expect("full")), [1, 2, 3]);
    assert_eq!(batcher.stats().pending_units, 1);
}

#[test]
fn failing_all_spares_what_was_cut() {
    let mut batcher = busy(BatchConfig::default());
    push(&mut batcher, at(1), 1);
    assert_eq!(batcher.fail_all(), [1]);
    let stats = batcher.stats();
    assert_eq!((stats.in_flight, stats.failed_units, stats.pending_units), (1, 1, 0));
}

#[test]
fn a_batcher_that_failed_all_takes_more() {
    let mut batcher = batcher(BatchConfig::default());
    push(&mut batcher, at(1), 1);
    batcher.fail_all();
    push(&mut batcher, at(2), 2);
    assert_eq!(ids(&batcher.poll(at(2), 1).expect("idle")), [2]);
}

#[test]
fn a_failed_queue_has_no_deadline() {
    let mut batcher = busy(BatchConfig::default());
    batcher.push(at(1), unit(1, 1), Some(at(50)), 1).expect("room");
    batcher.fail_all();
    assert_eq!(batcher.next_wake(at(60)), None);
    assert_eq!(batcher.expire(at(60)), []);
}

#[test]
fn a_unit_without_a_deadline_never_expires() {
    let mut batcher = busy(BatchConfig { in_flight_max: 1, ..BatchConfig::default() });
    push(&mut batcher, at(1), 1);
    assert_eq!(batcher.expire(at(u64::MAX / 2_000)), []);
    assert_eq!(batcher.stats().pending_units, 1);
}

#[test]
fn a_cut_counts_units_commands_and_bytes() {
    let mut batcher = batcher(BatchConfig::default());
    batcher.push(at(1), unit(3, 10), None, 1).expect("room");
    let cut = batcher.poll(at(4), 1).expect("idle");
    let expected = BatcherStats {
        in_flight: 1,
        submitted_units: 1,
        cut_units: 1,
        cut_commands: 3,
        cut_bytes: cut.batch.len() as u64,
        cut_batches: [0, 0, 0, 1, 0],
        waited: Duration::from_micros(3),
        ..BatcherStats::default()
    };
    assert_eq!(batcher.stats(), expected);
}

#[test]
fn what_waits_is_counted_as_it_will_be_encoded() {
    let mut batcher = busy(BatchConfig::default());
    batcher.push(at(1), unit(2, 10), None, 1).expect("room");
    let stats = batcher.stats();
    let waiting = (stats.pending_units, stats.pending_commands, stats.pending_bytes);
    assert_eq!(waiting, (1, 2, unit(2, 10).encoded_len()));
}

#[test]
fn reasons_are_called_in_metrics_in_the_order_of_their_counters() {
    let names = FlushReason::ALL.map(FlushReason::as_str);
    assert_eq!(names, ["count", "bytes", "linger", "idle", "off"]);
    assert_eq!(FlushReason::ALL.map(|reason| reason as usize), [0, 1, 2, 3, 4]);
}

#[test]
fn refusals_say_what_is_allowed() {
    let texts = [
        RefuseReason::Length { commands: 0 },
        RefuseReason::TooLarge { bytes: 9, max: 8 },
        RefuseReason::QueueCommandsFull { max: 8 },
        RefuseReason::QueueBytesFull { max: 256 },
        RefuseReason::Congested { ahead: 7 },
        RefuseReason::Expired,
        RefuseReason::Stopped,
    ]
    .map(|reason| reason.to_string());
    let expected = [
        "a unit of 0 commands; 1 to 65536 are allowed",
        "9 bytes; at most 8 are allowed",
        "the propose queue is full: 8 commands",
        "the propose queue is full: 256 bytes",
        "7 commands are ahead, too many for the deadline",
        "the deadline had passed before the unit was queued",
        "the batcher is stopped",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn a_raised_time_never_lowers_the_clock() {
    let mut batcher = batcher(BatchConfig::default());
    batcher.raise_time(5);
    push(&mut batcher, at(0), 1);
    let cut = batcher.poll(at(0), 100).expect("idle");
    assert_eq!(batch::decode(cut.batch).expect("valid").time_ms, 100);
}

/// A batcher behind a machine that takes 10 ms for a command and was offered ten times as many: the
/// first batches of 100 took a second each, and the third was late. At three seconds.
fn congested() -> Batcher {
    let mut batcher = batcher(BatchConfig::default());
    for id in 0..8 {
        let deadline = Some(at(4_000_000));
        batcher.push(at(0), unit(100, 1), deadline, id).expect("room");
        assert!(batcher.poll(at(0), 1).is_some());
    }
    (1..=3).for_each(|second| batcher.on_decided(at(1_000_000 * second)));
    batcher
}

/// Goal: overload is refused before it is queued, and says so (BP-10). Method: a unit that 500
/// commands are ahead of, each taking nearly 10 ms, with deadlines of 4 s and of an hour.
#[test]
fn what_cannot_be_decided_in_time_is_refused() {
    let mut batcher = congested();
    let now = at(3_000_000);
    let refused = batcher.push(now, unit(1, 1), Some(at(7_000_000)), 9).expect_err("too much");
    let reason = RefuseReason::Congested { ahead: 500 };
    assert_eq!(refused, Refused { waiter: 9, reason });
    assert_eq!(batcher.stats().refused_units, 1);
    batcher.push(now, unit(1, 1), Some(at(3_603_000_000)), 10).expect("there is time");
    batcher.push(now, unit(1, 1), None, 11).expect("it waits for as long as it takes");
}

/// Goal: under overload batches are full, not as small as what arrives within a linger. Method: one
/// unit, with five batches in flight and with one.
#[test]
fn congestion_waits_for_company_while_two_batches_are_in_flight() {
    let mut batcher = congested();
    batcher.push(at(3_000_000), unit(1, 1), None, 9).expect("it waits for as long as it takes");
    assert!(batcher.poll(at(3_500_000), 1).is_none());
    assert_eq!(batcher.next_wake(at(3_500_000)), None, "only a decision helps");
    (4..=7).for_each(|second| batcher.on_decided(at(1_000_000 * second)));
    assert_eq!(batcher.poll(at(7_000_000), 1).map(|cut| cut.reason), Some(FlushReason::Linger));
}

#[test]
fn a_look_at_no_deadline_does_not_put_off_the_next() {
    let mut batcher = busy(BatchConfig { in_flight_max: 1, ..BatchConfig::default() });
    push(&mut batcher, at(1), 1);
    assert_eq!(batcher.expire(at(5)), []);
    batcher.push(at(6), unit(1, 1), Some(at(10)), 2).expect("room");
    assert_eq!(batcher.next_wake(at(6)), Some(at(10)));
}

#[test]
fn the_queue_takes_its_last_command() {
    let mut batcher = busy(BatchConfig::tiny());
    push(&mut batcher, at(1), 1);
    batcher.push(at(1), unit(7, 1), None, 2).expect("eight in all");
    let refused = reason_of(batcher.push(at(1), unit(1, 1), None, 3));
    assert_eq!(refused, RefuseReason::QueueCommandsFull { max: 8 });
}

#[test]
fn the_queue_takes_its_last_byte() {
    let mut batcher = busy(BatchConfig { in_flight_max: 1, ..BatchConfig::tiny() });
    batcher.push(at(1), unit(1, 100), None, 1).expect("an empty queue");
    let rest = unit(1, 256 - unit(1, 100).encoded_len() - 3);
    assert_eq!(unit(1, 100).encoded_len() + rest.encoded_len(), 256);
    batcher.push(at(1), rest, None, 2).expect("exactly full");
    let refused = reason_of(batcher.push(at(1), unit(1, 0), None, 3));
    assert_eq!(refused, RefuseReason::QueueBytesFull { max: 256 });
}

#[test]
fn bytes_are_full_when_they_are_reached() {
    let mut batcher = busy(BatchConfig::tiny());
    batcher.push(at(1), unit(1, 61), None, 1).expect("room");
    assert!(batcher.poll(at(1), 1).is_none(), "63 of 64 bytes");
    batcher.fail_all();
    batcher.push(at(1), unit(1, 62), None, 2).expect("room");
    assert_eq!(batcher.poll(at(1), 1).map(|cut| cut.reason), Some(FlushReason::Bytes));
}

#[test]
fn units_that_fill_a_batch_to_the_byte_share_it() {
    let mut batcher = busy(BatchConfig::tiny());
    batcher.push(at(1), unit(1, 30), None, 1).expect("room");
    batcher.push(at(1), unit(1, 30), None, 2).expect("room");
    let cut = batcher.poll(at(1), 1).expect("64 bytes");
    assert_eq!((ids(&cut), cut.reason), (vec![1, 2], FlushReason::Bytes));
}

/// A unit that takes `bytes` in a batch, of commands that are each small enough.
fn unit_of(bytes: usize) -> Unit {
    let mut sized = unit(2, bytes / 2 - 8);
    let rest = bytes - sized.encoded_len();
    sized.commands[1] = vec![7; bytes / 2 - 8 + rest].into();
    assert_eq!(sized.encoded_len(), bytes);
    sized
}

#[test]
fn the_largest_unit_leaves_an_entry_its_framing() {
    let mut batcher = batcher(BatchConfig::high_throughput());
    let max = ENTRY_BYTES_MAX - BATCH_OVERHEAD_BYTES_MAX;
    let refused = reason_of(batcher.push(at(0), unit_of(max + 1), None, 1));
    assert_eq!(refused, RefuseReason::TooLarge { bytes: max + 1, max });
    batcher.push(at(0), unit_of(max), None, 2).expect("exactly the limit");
    let cut = batcher.poll(at(0), 1).expect("idle");
    assert!(cut.batch.len() <= ENTRY_BYTES_MAX, "{} bytes", cut.batch.len());
}

#[test]
fn a_batch_of_many_units_leaves_an_entry_its_framing() {
    let mut batcher = busy(BatchConfig::high_throughput());
    let half = ENTRY_BYTES_MAX / 2 - 4;
    batcher.push(at(1), unit_of(half), None, 1).expect("room");
    batcher.push(at(1), unit_of(half), None, 2).expect("room");
    let lingered = at(1).after(BatchConfig::high_throughput().linger);
    assert_eq!(ids(&batcher.poll(lingered, 1).expect("lingered")), [1]);
}

#[test]
fn cutting_some_keeps_the_deadlines_of_the_rest() {
    let mut batcher = busy(BatchConfig::tiny());
    for id in 1..=4 {
        batcher.push(at(1), unit(1, 1), Some(at(50)), id).expect("room");
    }
    assert_eq!(ids(&batcher.poll(at(1), 1).expect("count")), [1, 2, 3]);
    assert_eq!(batcher.next_wake(at(1)), Some(at(50)));
    assert_eq!(batcher.expire(at(50)), [4]);
}

#[test]
fn what_can_never_be_queued_is_told_before_what_may_be_later() {
    let mut batcher = busy(BatchConfig { in_flight_max: 1, ..BatchConfig::tiny() });
    batcher.push(at(1), unit(8, 1), None, 1).expect("room");
    let reason =
        |batcher: &mut Batcher, unit, deadline| reason_of(batcher.push(at(5), unit, deadline, 2));
    let many = BATCH_COMMANDS_MAX + 1;
    let length = RefuseReason::Length { commands: many };
    assert_eq!(reason(&mut batcher, unit(many, COMMAND_BYTES_MAX / 4_096), None), length);
    let large = reason(&mut batcher, unit(1, COMMAND_BYTES_MAX + 1), Some(at(5)));
    assert!(matches!(large, RefuseReason::TooLarge { .. }), "{large:?}");
    assert_eq!(reason(&mut batcher, unit(1, 1), Some(at(5))), RefuseReason::Expired);
    batcher.stop();
    assert_eq!(reason(&mut batcher, unit(0, 0), None), RefuseReason::Stopped);
}

#[test]
fn a_deadline_that_is_now_has_passed() {
    let mut batcher = busy(BatchConfig::default());
    batcher.push(at(1), unit(1, 1), Some(at(50)), 1).expect("room");
    assert_eq!(batcher.expire(at(49)), []);
    assert_eq!(batcher.expire(at(50)), [1]);
    assert_eq!(batcher.stats().expired_units, 1);
}

#[test]
fn expired_units_are_counted_where_they_are_met() {
    let mut batcher = busy(BatchConfig::default());
    batcher.push(at(1), unit(1, 1), Some(at(50)), 1).expect("room");
    push(&mut batcher, at(1), 2);
    batcher.push(at(1), unit(1, 1), Some(at(60)), 3).expect("room");
    assert!(batcher.poll(at(55), 1).is_none(), "it lingers");
    assert_eq!(batcher.stats().expired_units, 1, "met at the front");
    assert_eq!(batcher.expire(at(60)), [1, 3]);
    assert_eq!(batcher.stats().expired_units, 2, "and by a scan");
}
