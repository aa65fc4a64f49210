//! The scripts themselves beside [`redis::Entry`](crate::redis::Entry), on a real Redis: in every state that can be got
//! into, every request leaves both with the same fields and gets the same answer. A model of rules that the code does not
//! have proves nothing.

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use deadpool_redis::redis::{Client, Value, aio::MultiplexedConnection, cmd, from_redis_value};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::redis::{Entry, Fill, Lease, Rules, TIMELESS, Token, WRITER};

#[derive(Clone, Copy, Debug)]
enum Request {
    Lease { token: Token, min: u8 },
    Fill { token: Token, version: u8 },
    Release { token: Token },
    Floor { version: u8, token: Token },
    Unfloor { token: Token },
}

const REQUESTS: [Request; 17] = [
    Request::Lease { token: 1, min: 0 },
    Request::Lease { token: 2, min: 2 },
    Request::Fill { token: 1, version: 1 },
    Request::Fill { token: 1, version: 2 },
    Request::Fill { token: 2, version: 1 },
    Request::Fill { token: 2, version: 3 },
    Request::Fill { token: WRITER, version: 2 },
    Request::Fill { token: WRITER + 1, version: 3 },
    Request::Release { token: 1 },
    Request::Floor { version: 2, token: WRITER },
    Request::Floor { version: 3, token: WRITER + 1 },
    Request::Floor { version: 2, token: 0 },
    Request::Floor { version: 3, token: 0 },
    Request::Floor { version: 1, token: 0 },
    Request::Unfloor { token: WRITER },
    Request::Unfloor { token: WRITER + 1 },
    Request::Fill { token: 1, version: 0 },
];

/// A tick is so long that none passes between two commands.
const TICK: i64 = 1_000_000;
const RULES: Rules = Rules { lease: 1, floor: 2, ttl: 4, ..TIMELESS };

impl Request {
    fn on(self, entry: &mut Entry) -> i64 {
        match self {
            Self::Lease { token, min } => match entry.lease(token, min, RULES) {
                Lease::Hit { .. } => 1,
                Lease::Granted => 0,
                Lease::Filling => 2,
                Lease::Writing => 3,
            },
            Self::Fill { token, version } => {
                (entry.fill(token, version, version + 1, RULES) == Fill::Stored).into()
            }
            Self::Release { token } => {
                entry.release(token);
                0
            }
            Self::Floor { version, token } => entry.floor(version, token, RULES).into(),
            Self::Unfloor { token } => entry.unfloor(token).into(),
        }
    }

    fn as_script(self) -> (&'static str, Vec<String>) {
        let millis = |ticks: u8| (i64::from(ticks) * TICK).to_string();
        match self {
            Self::Lease { token, min } => (
                include_str!("../../src/lua/lease.lua"),
                vec![name(token), millis(RULES.lease), min.to_string(), String::new()],
            ),
            Self::Fill { token, version } => (
                include_str!("../../src/lua/fill.lua"),
                vec![name(token), version.to_string(), (version + 1).to_string(), millis(RULES.ttl)],
            ),
            Self::Release { token } => (
                include_str!("../../src/lua/fill.lua"),
                vec![name(token), "0".into(), String::new(), millis(1)],
            ),
            Self::Floor { version, token } => (
                include_str!("../../src/lua/floor.lua"),
                vec![version.to_string(), name(token), millis(RULES.lease), millis(RULES.floor)],
            ),
            Self::Unfloor { token } => (include_str!("../../src/lua/unfloor.lua"), vec![name(token)]),
        }
    }
}

fn name(token: Token) -> String {
    match token {
        0 => String::new(),
        WRITER.. => format!("w{token}"),
        _ => format!("r{token}"),
    }
}

fn token(name: &str) -> Token {
    name.get(1..).map_or(0, |number| number.parse().unwrap())
}

struct Server {
    child: Child,
    _folder: TempDir,
    redis: MultiplexedConnection,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .current_dir(folder.path())
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the tests need `redis-server` in the path: apt-get install redis-server");
        let url = format!("redis+unix://{}", folder.path().join("redis.sock").display());
        let client = Client::open(url).unwrap();
        let connects = async {
            loop {
                match client.get_multiplexed_async_connection().await {
                    Ok(connection) => break connection,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let redis = timeout(Duration::from_secs(30), connects).await.expect("redis-server does not start");
        Self { child, _folder: folder, redis }
    }

    async fn now(&mut self) -> i64 {
        let (seconds, micros): (i64, i64) = cmd("TIME").query_async(&mut self.redis).await.unwrap();
        seconds * 1000 + micros / 1000
    }

    async fn store(&mut self, entry: &Entry) {
        let until = self.now().await + i64::from(entry.le) * TICK;
        let mut fields = cmd("HSET");
        fields.arg("entry").arg(&[("f", entry.f)][..usize::from(entry.f != 0)]);
        if entry.d != 0 {
            fields.arg("v").arg(entry.v).arg("d").arg(entry.d);
        }
        if entry.l != 0 {
            fields.arg("l").arg(name(entry.l)).arg("le").arg(until);
        }
        cmd("DEL").arg("entry").exec_async(&mut self.redis).await.unwrap();
        if *entry != Entry::default() {
            fields.exec_async(&mut self.redis).await.unwrap();
            let life = i64::from(entry.ttl) * TICK;
            cmd("PEXPIRE").arg("entry").arg(life).exec_async(&mut self.redis).await.unwrap();
        }
    }

    async fn load(&mut self) -> Entry {
        let fields: HashMap<String, String> =
            cmd("HGETALL").arg("entry").query_async(&mut self.redis).await.unwrap();
        let left: i64 = cmd("PTTL").arg("entry").query_async(&mut self.redis).await.unwrap();
        assert!(left != -1, "an entry that lives for ever: {fields:?}");
        let now = self.now().await;
        let number = |field: &str| fields.get(field).map_or(0, |value| value.parse::<i64>().unwrap());
        let small = |number: i64| u8::try_from(number).unwrap();
        // What has just begun to run out counts as whole.
        let ticks = |left: i64| small((left.max(0) + TICK / 2) / TICK);
        Entry {
            v: small(number("v")),
            d: small(number("d")),
            f: small(number("f")),
            l: fields.get("l").map_or(0, |name| token(name)),
            le: ticks(number("le") - now),
            ttl: ticks(left),
        }
    }

    async fn run(&mut self, request: Request) -> i64 {
        let (script, arguments) = request.as_script();
        let mut eval = cmd("EVAL");
        eval.arg(script).arg(1).arg("entry").arg(arguments);
        match eval.query_async(&mut self.redis).await.unwrap() {
            Value::Array(answer) => from_redis_value(answer[0].clone()).unwrap(),
            answer => from_redis_value(answer).unwrap(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_scripts_do_what_the_model_says() {
    let mut server = Server::start().await;
    let mut known = vec![Entry::default()];
    let mut at = 0;
    while at < known.len() {
        let before = known[at];
        for request in REQUESTS {
            let mut after = before;
            let answer = request.on(&mut after);
            server.store(&before).await;
            assert_eq!(server.run(request).await, answer, "{request:?} on {before:?}");
            assert_eq!(server.load().await, after, "{request:?} on {before:?}");
            if !known.contains(&after) {
                known.push(after);
            }
        }
        let expired = Entry { le: 0, ..before };
        let mut older = before;
        older.tick();
        for next in [expired, older] {
            if !known.contains(&next) {
                known.push(next);
            }
        }
        at += 1;
    }
    println!(
        "| scripts | {} requests on each | {} | {} | | agree |",
        REQUESTS.len(),
        known.len(),
        known.len() * REQUESTS.len()
    );
    assert!(known.len() > 50);
}
