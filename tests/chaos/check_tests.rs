//! Small histories by hand: one key, two nodes, each rule broken once.

use crate::{
    bounds::Reason,
    check::{Rule, check},
    history::{
        Change, Committed, Effect, Event, FOREIGN, Failure, GONE, Healed, History, Level, Micros, Nobody,
        Outcome, Phase, Read, SECOND, Value, Version, Write,
    },
};

/// Version 1 was seeded; versions 2 and 3 are writes 1 and 2 on node 0, acknowledged after 10 and 20 s.
fn history() -> History {
    let (from, to) = (0, 30 * SECOND);
    let phase = Phase { name: "none".into(), always_answers: true, from, healed: to, to, shown: to };
    History {
        writes: vec![write(1, 2, 10), write(2, 3, 20)],
        ledger: vec![vec![committed(1, 0), committed(2, 1), committed(3, 2)]],
        rows: vec![committed(3, 2)],
        healed: vec![healed(0), healed(1)],
        phases: vec![phase],
        nodes: 2,
        ..History::default()
    }
}

fn committed(version: Version, value: Value) -> Committed {
    Committed { version, value, address: 0, deleted: false, by_feed: false }
}

fn write(value: Value, version: Version, second: Micros) -> Write {
    let (start, end) = (second * SECOND - 5000, second * SECOND);
    let (change, outcome) = (Change::Name, Outcome::Acknowledged(version));
    Write { key: 0, value, change, if_match: None, node: 0, run: Some(0), start, end, outcome }
}

fn read(node: usize, second: Micros, version: Version, value: Value) -> Read {
    let (start, end) = (second * SECOND, second * SECOND + 2000);
    Read {
        key: 0,
        node,
        run: Some(0),
        min: None,
        asked: None,
        start,
        end,
        version,
        body_version: version,
        value,
        address: 0,
        level: Level::Local,
    }
}

fn healed(node: usize) -> Healed {
    Healed { node, key: 0, at: 40 * SECOND, read: Some(read(node, 40, 3, 2)), row: Some((3, 2)) }
}

/// The user is deleted, by version 4 after 25 s; and a 404 at another time.
fn deleted(second: Micros) -> History {
    let mut history = history();
    history.ledger[0].push(Committed { deleted: true, ..committed(4, 2) });
    history.rows[0] = history.ledger[0][3].clone();
    history.writes.push(Write { change: Change::Delete, ..write(FOREIGN, GONE, 25) });
    history.reads.push(not_found(second));
    history.healed.clear();
    history
}

fn not_found(second: Micros) -> Read {
    Read { address: FOREIGN, level: Level::Any, ..read(1, second, GONE, FOREIGN) }
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
    twice.rows[0] = committed(2, 2);
    assert!(rules(&twice).contains(&Rule::Ledger));
    let mut gone = history();
    gone.rows[0] = committed(2, 1);
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
    let oldest = History { reads: vec![Read { node: 1, ..read(0, 20, 1, 0) }], ..history() };
    assert_eq!(rules(&oldest), [Rule::Stale]);
    assert_eq!(check(&oldest).staleness, [10 * SECOND]);
}

#[test]
fn the_feed_may_take_longer() {
    let by_feed = |read: Read| {
        let mut history = History { reads: vec![read], ..history() };
        history.ledger[0][2].by_feed = true;
        history
    };
    assert_eq!(rules(&by_feed(late(1_250_000))), []);
    assert_eq!(check(&by_feed(late(1_250_000))).excused, [(0, Reason::ByFeed)]);
    assert_eq!(rules(&by_feed(late(2_260_000))), [Rule::Stale]);
    // Version 3 by the feed after 20 s, version 4 after 21 s.
    let mut between = by_feed(late(1_500_000));
    between.ledger[0].push(committed(4, 3));
    between.rows[0] = committed(4, 3);
    between.writes.push(write(3, 4, 21));
    between.healed.clear();
    assert_eq!(check(&between).excused, [(0, Reason::Between)]);
    assert_eq!(rules(&between), []);
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
        let mut history = History { reads: vec![late(4 * SECOND)], ..history() };
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
    history.healed[1].read = Some(read(1, 40, 2, 1));
    assert_eq!(rules(&history), [Rule::Converged]);
    history.healed[1].read = None;
    assert_eq!(rules(&history), [Rule::Converged], "not answered");
    history.healed[1] = Healed { row: None, ..healed(1) };
    assert_eq!(rules(&history), [Rule::Converged], "deleted");
    history.healed[1].read = Some(not_found(40));
    assert_eq!(rules(&history), []);
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
    assert_eq!(rules(&failed(25, 412)), []);
    let mut waited = failed(25, 503);
    waited.failures[0].end += SECOND;
    assert_eq!(rules(&waited), [], "for a connection or a lock");
}

#[test]
fn a_process_that_ends_by_itself() {
    let history = History { exits: vec![(SECOND, "api-0".into())], ..history() };
    assert_eq!(rules(&history), [Rule::Exit]);
}

#[test]
fn what_somebody_saw_counts_as_what_was_acknowledged() {
    let mut history = History { reads: vec![read(0, 21, 3, 2), late(2_100_000)], ..history() };
    // Its writer died before it could say so.
    history.writes[1].outcome = Outcome::Unknown(0);
    assert_eq!(rules(&history), [Rule::Stale]);
    history.reads[1].start -= SECOND / 2;
    assert_eq!(rules(&history), [], "half a second after it was seen");
}

#[test]
fn redis_and_the_database_answer_with_what_is_known() {
    let past_local = |micros, level| Read { level, ..late(micros) };
    assert_eq!(rules_with(past_local(200_000, Level::Redis)), []);
    assert_eq!(rules_with(past_local(300_000, Level::Redis)), [Rule::StalePastLocal]);
    assert_eq!(rules_with(past_local(300_000, Level::Miss)), [Rule::StalePastLocal]);
    assert_eq!(rules_with(past_local(300_000, Level::Local)), []);
    assert_eq!(rules_with(past_local(300_000, Level::Any)), []);
    // The floor was not placed, Redis has forgotten it, the node stood still.
    let mut by_feed = History { reads: vec![past_local(300_000, Level::Redis)], ..history() };
    by_feed.ledger[0][2].by_feed = true;
    assert_eq!(rules(&by_feed), []);
    for effect in [Effect::RedisForgets, Effect::NodeAway(1)] {
        let mut history = History { reads: vec![past_local(300_000, Level::Redis)], ..history() };
        let (from, to) = (20 * SECOND - 1000, 21 * SECOND);
        history.events.push(Event { what: String::new(), effect, from, to });
        assert_eq!(rules(&history), [], "{effect:?}");
    }
}

#[test]
fn a_job_in_the_hands_of_a_dead_worker_waits_for_its_lease() {
    let mut history = History { reads: vec![late(9 * SECOND)], ..history() };
    let mut event = |effect, from, to| history.events.push(Event { what: String::new(), effect, from, to });
    event(Effect::RedisForgets, 20 * SECOND - 1000, 20 * SECOND - 500);
    event(Effect::WorkerAway, 21 * SECOND, 22 * SECOND);
    assert_eq!(rules(&history), []);
    history.events.pop();
    assert_eq!(rules(&history), [Rule::Stale]);
}

#[test]
fn a_deleted_user_is_a_version_that_is_not_found() {
    assert_eq!(rules(&deleted(26)), []);
    assert_eq!(rules(&deleted(24)), [Rule::Missing], "before anybody deleted it");
    let mut late = deleted(26);
    late.reads.push(Read { start: 27 * SECOND, ..read(1, 27, 3, 2) });
    assert_eq!(rules(&late), [Rule::Stale]);
    let mut shown = deleted(26);
    shown.reads.push(read(1, 26, 4, 2));
    assert_eq!(rules(&shown), [Rule::Missing]);
    let mut again = deleted(26);
    again.ledger[0].push(committed(5, 3));
    again.rows[0] = committed(5, 3);
    assert!(rules(&again).contains(&Rule::Ledger));
}

#[test]
fn a_user_who_exists_is_found() {
    assert_eq!(rules_with(not_found(25)), [Rule::Missing]);
}

#[test]
fn a_deletion_that_was_acknowledged_and_did_not_happen() {
    let mut history = history();
    history.writes.push(Write { change: Change::Delete, ..write(FOREIGN, GONE, 25) });
    assert_eq!(rules(&history), [Rule::LostWrite]);
}

#[test]
fn a_write_on_a_version_that_was_no_longer_the_current_one() {
    let matched = |version| {
        let mut history = history();
        history.writes[1].if_match = Some(version);
        rules(&history)
    };
    assert_eq!(matched(2), []);
    assert_eq!(matched(1), [Rule::IfMatch]);
}

/// Write 2 gives the address 2.
fn with_address() -> History {
    let mut history = history();
    history.ledger[0][2].address = 2;
    history.rows[0].address = 2;
    history.writes[1].change = Change::Address;
    history.healed.clear();
    history
}

#[test]
fn a_user_is_found_by_an_address_of_theirs_only() {
    let found = |asked, address, version, value| {
        let read = Read { asked: Some(asked), address, ..read(1, 20, version, value) };
        rules(&History { reads: vec![read], ..with_address() })
    };
    assert_eq!(found(2, 2, 3, 2), []);
    assert_eq!(found(2, 0, 2, 1), [Rule::WrongAddress]);
    assert_eq!(found(2, 2, 2, 1), [Rule::OneValue]);
}

#[test]
fn an_address_that_somebody_has_is_found() {
    let nobody = |second: Micros| {
        let (start, end) = (second * SECOND, second * SECOND + 2000);
        let mut history = with_address();
        history.nobodies.push(Nobody { address: 2, node: 1, start, end });
        history
    };
    assert_eq!(rules(&nobody(21)), [Rule::Missing]);
    assert_eq!(rules(&nobody(19)), [], "before it was given");
    // Its answer was lost.
    let mut taken = nobody(26);
    taken.writes.push(Write { change: Change::Address, outcome: Outcome::Unknown(0), ..write(3, 4, 25) });
    taken.ledger[0].push(Committed { address: 3, ..committed(4, 3) });
    taken.rows[0] = taken.ledger[0][3].clone();
    assert_eq!(rules(&taken), [], "taken away again");
    // One that began before and came later.
    taken.writes[2].start = 19 * SECOND;
    assert_eq!(rules(&taken), []);
    taken.writes[2].start = 27 * SECOND;
    assert_eq!(rules(&taken), [Rule::Missing]);
}

#[test]
fn redis_answers_where_nothing_is_wrong() {
    let warm = |level| {
        let mut history = History { reads: vec![Read { level, ..read(1, 25, 3, 2) }], ..history() };
        let (from, to) = (24 * SECOND, 26 * SECOND);
        history.events.push(Event { what: String::new(), effect: Effect::Warm(0), from, to });
        rules(&history)
    };
    assert_eq!(warm(Level::Redis), []);
    assert_eq!(warm(Level::Miss), [Rule::Cold]);
}

#[test]
fn a_stored_history_is_judged_alike() {
    let mut history = deleted(24);
    history.failures.push(Failure { key: 0, node: 1, start: 0, end: 1, status: 500 });
    history.exits.push((SECOND, "api-0".into()));
    let file = tempfile::NamedTempFile::new().unwrap();
    crate::stored::write(&history, file.path()).unwrap();
    let stored = crate::stored::read(file.path()).unwrap();
    assert_eq!(rules(&stored), rules(&history));
    assert_eq!(format!("{stored:?}"), format!("{history:?}"));
}
