use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::{self, cmd};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tenantry_cache::{Cache, Entry, Level, Loaded, ReadError, Settings, State};

use crate::stage::{Broken, RedisServer, Truth, entry, node};

#[tokio::test]
async fn the_truth_then_the_process_then_redis_answer() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);

    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&here).await, (1, Level::Local));
    assert_eq!(row.seen(&there).await, (1, Level::Redis));
    assert_eq!(row.seen(&there).await, (1, Level::Local));
    assert_eq!(row.loads(), 1);
}

#[tokio::test]
async fn bytes_come_back_as_they_went_in() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    let whole = Entry { body: Bytes::from_iter(0..=255), ..entry(3) };
    let loaded = Loaded::Row(whole.clone());

    here.read_through(&row.key, None, || async { Ok::<_, Broken>(loaded) }).await.unwrap();

    let read = row.read(&there).await.unwrap();
    assert_eq!((read.entry.as_deref(), read.level), (Some(&whole), Level::Redis));
}

#[tokio::test]
async fn without_redis_the_process_answers_alone() {
    let alone = node(Settings::default()).await;
    let row = Truth::new(1);
    assert!(!alone.has_redis());

    assert_eq!(row.seen(&alone).await, (1, Level::Postgres));
    assert_eq!(row.seen(&alone).await, (1, Level::Local));
    assert!(row.write(&alone, 2).await, "there is nothing to confirm");
    assert_eq!(row.seen(&alone).await, (2, Level::Local));
    alone.invalidate(&row.key, 2).await.unwrap();
}

#[tokio::test]
async fn a_deleted_row_is_an_entry() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    let deleted = Entry { version: 2, state: State::Deleted, body: Bytes::new() };

    let write = here.begin_write(&row.key, 2).await;
    write.committed(deleted.clone()).await;

    for node in [&here, &there] {
        assert_eq!(row.read(node).await.unwrap().entry.as_deref(), Some(&deleted));
    }
    assert_eq!(row.loads(), 0);
}

#[tokio::test]
async fn a_failed_read_gives_the_lease_back() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);

    let failed = here.read_through(&row.key, None, || async { Err(Broken) }).await;
    assert!(matches!(failed, Err(ReadError::Load(error)) if *error == Broken));
    assert_eq!(row.field(&redis, "l").await, None);
}

#[tokio::test]
async fn a_value_lives_in_redis_no_longer_than_its_ttl_and_not_much_less() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);
    row.read(&here).await.unwrap();

    let left = row.left(&redis).await;
    assert!((700_000..=900_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn a_minimum_version_passes_by_older_entries_and_leaves_them_as_they_are() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    row.set(2); // as if the write's floor had been lost

    for node in [&here, &there] {
        let read = node.read_through(&row.key, Some(2), row.load()).await.unwrap();
        assert_eq!((read.entry.unwrap().version, read.level), (2, Level::Postgres));
        assert!(read.bypassed, "the process held less, or Redis did");
        assert_eq!(row.seen(node).await, (2, Level::Local), "a newer entry replaces the older one");
    }
    assert_eq!(row.field(&redis, "v").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_minimum_version_is_met_by_any_level() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    row.write(&here, 2).await;

    for (node, level) in [(&there, Level::Redis), (&there, Level::Local), (&here, Level::Local)] {
        let read = node.read_through(&row.key, Some(2), row.load()).await.unwrap();
        assert_eq!((read.level, read.bypassed), (level, false));
    }
    assert_eq!(row.loads(), 0);
    let cold = Truth::new(2);
    let read = here.read_through(&cold.key, Some(2), cold.load()).await.unwrap();
    assert_eq!((read.level, read.bypassed), (Level::Postgres, false), "it would have been asked anyway");
}

#[tokio::test]
async fn a_version_that_the_row_has_not_reached_is_an_error() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);

    for expected_loads in [1, 2] {
        let read = here.read_through(&row.key, Some(2), row.load()).await;
        assert!(matches!(read, Err(ReadError::VersionNotReached)));
        assert_eq!(row.loads(), expected_loads, "each asks the truth exactly once");
    }
    let absent = Truth::new(None);
    assert_eq!(here.read_through(&absent.key, Some(2), absent.load()).await.unwrap().entry, None);
}

/// What may get under our key `at`, besides what we store: `[field, value, ...]`, or a plain string.
fn foreign(at: &str, row: &Truth, other: &Truth) -> Vec<redis::Cmd> {
    let set = |fields: &[(&str, &[u8])]| {
        let mut set = cmd("HSET");
        set.arg(at);
        fields.iter().for_each(|(field, value)| {
            set.arg(*field).arg(*value);
        });
        set
    };
    let name = |row: &Truth| row.key.to_string();
    let (ours, theirs) = (name(row), name(other));
    vec![
        set(&[("v", b"1"), ("d", b"\xff\x00rubbish")]),
        set(&[("v", b"1"), ("d", b"")]),
        set(&[("v", b"1")]),
        set(&[("d", b"1 rubbish")]),
        set(&[("v", b"one"), ("d", b"rubbish")]),
        set(&[("v", b"1e300"), ("d", b"rubbish")]),
        set(&[("v", b"9000000000000000000"), ("d", b"rubbish")]),
        set(&[("v", b"1"), ("d", b"rubbish"), ("f", b"rubbish"), ("l", b"rubbish"), ("le", b"rubbish")]),
        set(&[("v", b"1"), ("d", format!("1 {theirs} 1 live 2\n{{}}").as_bytes())]),
        set(&[("v", b"2"), ("d", format!("1 {ours} 1 live 2\n{{}}").as_bytes())]),
        set(&[("v", b"1"), ("d", format!("2 {ours} 1 live 2\n{{}}").as_bytes())]),
        set(&[("v", b"1"), ("d", format!("1 {ours} 1 live 3\n{{}}").as_bytes())]),
        cmd("SET").arg(at).arg("rubbish").clone(),
        cmd("RPUSH").arg(at).arg("rubbish").clone(),
    ]
}

#[tokio::test]
async fn foreign_bytes_are_a_miss_and_are_repaired() {
    let redis = RedisServer::start().await;
    let mut connection = redis.connection().await;
    let (row, other) = (Truth::new(1), Truth::new(1));
    for (n, plant) in foreign(&row.redis_key(&redis).await, &row, &other).iter().enumerate() {
        let () = cmd("DEL").arg(row.redis_key(&redis).await).query_async(&mut connection).await.unwrap();
        let () = plant.exec_async(&mut connection).await.unwrap();

        let (here, there) = (redis.bare_node().await, redis.bare_node().await);
        assert_eq!(row.seen(&here).await, (1, Level::Postgres), "case {n}");
        assert_eq!(row.seen(&there).await, (1, Level::Redis), "case {n}");
    }
}

#[tokio::test]
async fn a_write_goes_over_foreign_bytes() {
    let redis = RedisServer::start().await;
    let mut connection = redis.connection().await;
    let (row, other) = (Truth::new(1), Truth::new(1));
    // A number that is no version of ours but looks newer stays until a reader rejects it: floors never go down.
    let newer = [5, 6];
    for (n, plant) in foreign(&row.redis_key(&redis).await, &row, &other)
        .iter()
        .enumerate()
        .filter(|(n, _)| !newer.contains(n))
    {
        let () = cmd("DEL").arg(row.redis_key(&redis).await).query_async(&mut connection).await.unwrap();
        let () = plant.exec_async(&mut connection).await.unwrap();

        let (here, there) = (redis.bare_node().await, redis.bare_node().await);
        assert!(row.write(&here, 3).await, "case {n}");
        assert_eq!(row.seen(&there).await, (3, Level::Redis), "case {n}");
    }
}

#[test]
fn reads_and_mismatches_are_counted() {
    let recorder = DebuggingRecorder::new();
    let counts = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let redis = RedisServer::start().await;
            let here = redis.node().await;
            let row = Truth::new(1);
            let mut plant = cmd("HSET");
            plant.arg(row.redis_key(&redis).await).arg(&["v", "1", "d", "rubbish"]);
            plant.exec_async(&mut redis.connection().await).await.unwrap();
            for node in [&here, &here, &redis.node().await] {
                row.read(node).await.unwrap();
            }
            let gone = here.read_through(&row.key, Some(9), row.load()).await;
            assert!(gone.is_err());
        });
    });
    let mut counted: Vec<_> = counts
        .snapshot()
        .into_vec()
        .into_iter()
        .filter_map(|(key, _, _, value)| {
            let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
            let DebugValue::Counter(value) = value else { return None };
            Some((key.key().name().to_owned(), labels.join(" "), value))
        })
        .collect();
    counted.sort();
    let counted: Vec<_> =
        counted.iter().map(|(name, labels, n)| (name.as_str(), labels.as_str(), *n)).collect();
    assert_eq!(
        counted,
        [
            ("tenantry_cache_bypassed_total", "", 1),
            ("tenantry_cache_mismatch_total", "foreign", 1),
            ("tenantry_cache_reads_total", "local live", 1),
            ("tenantry_cache_reads_total", "postgres live", 1),
            ("tenantry_cache_reads_total", "postgres version_not_reached", 1),
            ("tenantry_cache_reads_total", "redis live", 1),
        ]
    );
}

#[tokio::test]
async fn an_entry_of_another_epoch_or_schema_is_out_of_reach() {
    let redis = RedisServer::start().await;
    let row = Truth::new(1);
    row.read(&redis.node().await).await.unwrap();

    let epoch = node(Settings { epoch: "00000002".into(), ..redis.settings() }).await;
    assert_eq!(row.seen(&epoch).await, (1, Level::Postgres));
    let schema = node(Settings { schema: "users/2", ..redis.settings() }).await;
    assert_eq!(row.seen(&schema).await, (1, Level::Postgres));
}

#[tokio::test]
async fn a_url_that_means_nothing_is_refused_without_repeating_it() {
    let settings = Settings { redis_url: Some("redis://:secret@:::".into()), ..Settings::default() };
    let error = Cache::new(settings).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[tokio::test]
async fn an_entry_in_the_process_is_not_shown_after_a_second() {
    tokio::time::pause();
    let alone = node(Settings::default()).await;
    let row = Truth::new(1);
    row.read(&alone).await.unwrap();
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(row.seen(&alone).await, (1, Level::Local));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(row.seen(&alone).await, (1, Level::Postgres));
}
