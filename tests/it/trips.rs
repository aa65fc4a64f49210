//! How often a request waits for PostgreSQL and for Redis: counted between them and the program.

use std::{path::Path, time::Duration};

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    app::PASSWORD,
    node::{Cluster, Connection},
    turns::{Turns, usual},
};

/// How often each is asked for. The process asks for what was revoked each 250 ms and looks after Redis; who is lucky gets
/// between.
const TRIES: usize = 15;

/// The ways to the two servers, of the process that is started on them.
struct Ways {
    postgres: Turns,
    redis: Turns,
    _folder: TempDir,
}

impl Ways {
    /// From now on the processes of this cluster go by them.
    async fn of(cluster: &mut Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = cluster.setting("DATABASE_URL").to_owned();
        let (before, sockets) = url.split_once("host=").unwrap();
        let (socket, proxied) =
            (Path::new(sockets).join(".s.PGSQL.5432"), folder.path().join(".s.PGSQL.5432"));
        let postgres = Turns::start(&proxied, socket).unwrap();
        let url = format!("{before}host={}", folder.path().display());
        let socket = cluster.setting("REDIS_URL").strip_prefix("redis+unix://").unwrap().to_owned();
        let proxied = folder.path().join("redis.sock");
        let redis = Turns::start(&proxied, socket.into()).unwrap();
        cluster.set("DATABASE_URL", url);
        cluster.set("REDIS_URL", format!("redis+unix://{}", proxied.display()));
        // One connection prepares all statements soon.
        cluster.set("DATABASE_POOL", "2".into());
        cluster.add_node().await;
        Self { postgres, redis, _folder: folder }
    }

    fn counts(&self) -> [u64; 3] {
        [self.postgres.turns(), self.postgres.statements(), self.redis.turns()]
    }

    /// What a request takes: round trips to PostgreSQL, statements, round trips to Redis. `expected` is its status.
    async fn counted(
        &self,
        client: &mut Connection,
        expected: u16,
        next: impl Fn(usize) -> (Method, String, String),
    ) -> [u64; 3] {
        let (mut least, mut redis) = ([u64::MAX; 2], vec![]);
        for n in 0..TRIES {
            let (method, path, body) = next(n);
            let before = self.counts();
            let answer = client.ask(method, &path, &body).await;
            assert_eq!(answer.status, expected, "{:?}", answer.json());
            redis.push(self.counts()[2] - before[2]);
            // What is done beside the answer: workers are woken.
            tokio::time::sleep(Duration::from_millis(60)).await;
            let after = self.counts();
            least = std::array::from_fn(|n| least[n].min(after[n] - before[n]));
        }
        [least[0], least[1], usual(&redis)]
    }
}

#[tokio::test]
async fn a_cold_look_up_waits_for_postgres_once_and_changes_for_as_little_as_they_can() {
    let mut cluster = Cluster::start(1, 2 * TRIES, &[("CACHE_LOCAL_TTL", "1ms")]).await;
    let ways = Ways::of(&mut cluster).await;
    let mut client = cluster.client(1).await;
    let user = |n: usize| format!("/api/v1/users/{}", cluster.users[n]);

    let look_up = |n| (Method::GET, user(n), String::new());
    assert_eq!(ways.counted(&mut client, 200, look_up).await, [1, 1, 2], "a cold look-up: lease, row, fill");
    assert_eq!(ways.counted(&mut client, 200, look_up).await, [0, 0, 1], "one that Redis answers");

    // BEGIN; the tenant and whether the actor stands; the row's lock; the change and the audit trail; the job; COMMIT. Then
    // workers are woken, for which nobody waits. To Redis: the floor before COMMIT, the value after it.
    let change = |n| (Method::PATCH, user(n), json!({"name": format!("Name {n}")}).to_string());
    assert_eq!(ways.counted(&mut client, 200, change).await, [7, 9, 2], "a change of a name");

    // As above without the lock, but for a seat; row and mail in one; pointers to the address go before COMMIT and after it.
    let create = |_| {
        let body = json!({"email": format!("{}@example.org", Uuid::now_v7()), "name": "New"});
        (Method::POST, "/api/v1/users".to_owned(), body.to_string())
    };
    assert_eq!(ways.counted(&mut client, 201, create).await, [8, 10, 4], "a new user");

    let register = |_| {
        let slug = Uuid::now_v7().simple().to_string();
        let body = json!({"tenant": {"name": "Acme", "slug": format!("t{slug}")}, "email": "ada@example.org", "name": "Ada",
                          "password": PASSWORD});
        (Method::POST, "/api/v1/auth/register".to_owned(), body.to_string())
    };
    assert_eq!(ways.counted(&mut client, 201, register).await, [8, 12, 4], "a new tenant");
}
