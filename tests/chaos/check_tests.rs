//! Small histories by hand: one key, two nodes, each rule broken once.

use crate::{
    check::{Reason, Rule, check},
    history::{
        Committed, Effect, Event, Failure, History, Micros, Outcome, Phase, Read, SECOND, Value, Version,
        Write,
    },
};

/// Version 1 was seeded; versions 2 and 3 are writes 1 and 2 on node 0, acknowledged after 10 and 20 s.
fn history() -> History {
    let committed = |version, value| Committed { version, value, by_feed: false };
    History {
        writes: vec![write(1, 2, 10), write(2, 3, 20)],
        ledger: vec![vec![committed(1, 0), committed(2, 1), committed(3, 2)]],
        rows: vec![(3, 2)],
        finals: vec![read(0, 40, 3, 2), read(1, 40, 3, 2)],
        phases: vec![Phase { name: "none", always_answers: true, from: 0, to: 30 * SECOND }],
        nodes: 2,
        ..History::default()
    }
}

fn write(value: Value, version: Version, second: Micros) -> Write {
    let (start, end) = (second * SECOND - 5000, second * SECOND);
    Write { key: 0, value, node: 0, run: Some(0), start, end, outcome: Outcome::Acknowledged(version) }
}

fn read(node: usize, second: Micros, version: Version, value: Value) -> Read {
    let (start, end) = (second * SECOND, second * SECOND + 2000);
    let (body_version, level) = (version, "redis");
    Read { key: 0, node, run: Some(0), min: None, start, end, version, body_version, value, level }
}

/// A read of version 2 on the other node, so long after version 3 was acknowledged.
fn late(micros: Micros) -> Read {
    Read { start: 20 * SECOND + micros, ..read(1, 20, 2, 1) }
}

fn rules(history: &History) -> Vec<Rule> {
    check(history).violations.iter().map(|violation| violation.rule).collect()
}

fn rules_with(read: Read) -> Vec<Rule> {
    rules(&History { reads: vec![read], ..history() })
}

#[test]
fn a_history_without_faults_breaks_no_rule() {
    let reads = vec![read(0, 11, 2, 1), read(1, 11, 2, 1), late(900_000), read(0, 21, 3, 2)];
    let history = History { reads, ..history() };
    let findings = check(&history);
    assert!(findings.violations.is_empty(), "{:?}", findings.violations);
    assert_eq!(findings.staleness, [0, 0, 900_000, 0]);
}

#[test]
fn a_version_that_was_never_committed() {
    assert_eq!(rules_with(read(1, 25, 4, 9)), [Rule::Uncommitted]);
}

#[test]
fn a_value_of_another_version() {
    assert_eq!(rules_with(read(1, 25, 3, 1)), [Rule::OneValue]);
    assert_eq!(rules_with(Read { body_version: 2, ..read(1, 25, 3, 2) }), [Rule::OneValue]);
}

#[test]
fn an_acknowledged_write_that_is_not_there() {
    let mut lost = history();
    lost.writes.push(Write { start: 24 * SECOND, ..write(3, 4, 25) });
    assert_eq!(rules(&lost), [Rule::LostWrite]);
    let mut under_another_version = history();
    under_another_version.writes[0].outcome = Outcome::Acknowledged(3);
    assert!(rules(&under_another_version).contains(&Rule::LostWrite));
}

#[test]
fn a_refused_write_that_is_there() {
    let mut history = history();
    history.writes[0].outcome = Outcome::Refused(409);
    assert_eq!(rules(&history), [Rule::RefusedWrite]);
}

#[test]
fn a_write_whose_answer_was_lost_may_be_there_or_not() {
    let mut history = history();
    history.phases.clear();
    history.writes[0].outcome = Outcome::Unknown(503);
    history.writes.push(Write { outcome: Outcome::Unknown(0), ..write(3, 0, 25) });
    assert_eq!(rules(&history), []);
}

#[test]
fn a_version_made_twice_or_never() {
    let mut twice = history();
    twice.ledger[0][2].version = 2;
    twice.rows[0] = (2, 2);
    assert!(rules(&twice).contains(&Rule::Ledger));
    let mut gone = history();
    gone.rows[0] = (2, 1);
    assert!(rules(&gone).contains(&Rule::Ledger));
}

#[test]
fn a_process_forgets_its_own_write() {
    let start = 20 * SECOND + 1;
    assert_eq!(rules_with(Read { start, ..read(0, 20, 2, 1) }), [Rule::ReadYourWrites]);
    // It started before the acknowledgement; it is another process by now; it may be another one.
    for allowed in [
        Read { start: 20 * SECOND, ..read(0, 20, 2, 1) },
        Read { start, run: Some(2), ..read(0, 20, 2, 1) },
        Read { start, run: None, ..read(0, 20, 2, 1) },
    ] {
        assert_eq!(rules_with(allowed), []);
    }
}

#[test]
fn older_than_the_client_asked_for() {
    assert_eq!(rules_with(Read { min: Some(3), ..late(1000) }), [Rule::MinVersion]);
    assert_eq!(rules_with(Read { min: Some(2), ..late(1000) }), []);
}

#[test]
fn staleness_counts_from_the_oldest_newer_write() {
    assert_eq!(rules_with(late(1_000_000)), []);
    assert_eq!(rules_with(late(1_060_000)), [Rule::Stale]);
    let oldest = History { reads: vec![read(1, 20, 1, 0)], ..history() };
    assert_eq!(rules(&oldest), [Rule::Stale]);
    assert_eq!(check(&oldest).staleness, [10 * SECOND]);
}

#[test]
fn the_feed_may_take_a_quarter_of_a_second_longer() {
    let by_feed = |read: Read| {
        let mut history = History { reads: vec![read], ..history() };
        history.ledger[0][2].by_feed = true;
        history
    };
    assert_eq!(rules(&by_feed(late(1_250_000))), []);
    assert_eq!(check(&by_feed(late(1_250_000))).excused, [(0, Reason::ByFeed)]);
    assert_eq!(rules(&by_feed(late(1_510_000))), [Rule::Stale]);
}

#[test]
fn what_keeps_a_node_from_the_feed_puts_off_its_bound() {
    let away = |effect, by_feed| {
        let mut history = History { reads: vec![late(5 * SECOND)], ..history() };
        history.ledger[0][2].by_feed = by_feed;
        history.events.push(Event { what: String::new(), effect, from: 21 * SECOND, to: 24 * SECOND });
        history
    };
    assert_eq!(rules(&away(Effect::FeedAway, true)), []);
    assert_eq!(rules(&away(Effect::NodeAway(1), true)), []);
    assert_eq!(rules(&away(Effect::NodeAway(0), true)), [Rule::Stale]);
    assert_eq!(rules(&away(Effect::FeedAway, false)), [Rule::Stale]);
}

#[test]
fn redis_may_forget_a_floor_in_the_middle_of_a_write_only() {
    let forgot = |from: Micros, to: Micros| {
        let mut history = History { reads: vec![late(3 * SECOND)], ..history() };
        history.events.push(Event { what: String::new(), effect: Effect::RedisForgets, from, to });
        history
    };
    let (start, end) = (20 * SECOND - 5000, 20 * SECOND);
    assert_eq!(rules(&forgot(start + 1000, end - 1000)), []);
    assert_eq!(rules(&forgot(end + 1000, end + 2000)), [Rule::Stale]);
}

#[test]
fn a_healed_node_that_does_not_show_the_row() {
    let mut history = history();
    history.finals[1] = read(1, 40, 2, 1);
    assert_eq!(rules(&history), [Rule::Converged]);
}

#[test]
fn errors_where_nothing_excuses_them() {
    let failed = |second: Micros, status| {
        let (start, end) = (second * SECOND, second * SECOND + 2000);
        let failure = Failure { key: 0, node: 1, start, end, status };
        History { failures: vec![failure], ..history() }
    };
    assert_eq!(rules(&failed(25, 503)), [Rule::Unavailable]);
    // In no such phase, still in the shadow of the one before, answered in the next one.
    assert_eq!(rules(&failed(35, 503)), []);
    assert_eq!(rules(&failed(0, 503)), []);
    assert_eq!(rules(&failed(30, 503)), []);
    assert_eq!(rules(&failed(35, 404)), [Rule::Missing]);
    assert_eq!(rules(&failed(25, 412)), []);
}

#[test]
fn a_process_that_ends_by_itself() {
    let history = History { exits: vec![(SECOND, "api-0".into())], ..history() };
    assert_eq!(rules(&history), [Rule::Exit]);
}
