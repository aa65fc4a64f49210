//! The line of a request that was answered. Written past the subscriber, which would look for spans and carry each member about by
//! itself; whether it is to be written is for the filter to say, as with any other.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    time::Duration,
};

use tenantry_accounts::{ApiKeyId, UserId};
use tenantry_trace::Work;
use tracing::Level;
use uuid::Uuid;

use super::{
    Format, format,
    json::{self, Escaped},
    lines,
};
use crate::{
    clock,
    digits::{fraction, whole},
};

/// Where it is said to come from, for RUST_LOG.
const TARGET: &str = "tenantry::layers";

/// What is said of a request.
pub(crate) struct Answered<'a> {
    pub(crate) work: &'a Work,
    /// A known one.
    pub(crate) method: &'static str,
    /// The pattern and not the path: a path may carry what nobody should read.
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) user: Option<UserId>,
    pub(crate) api_key: Option<ApiKeyId>,
}

thread_local! {
    /// So that no line has to find memory.
    static ROOM: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Answered<'_> {
    /// Writes the line, if such lines are written.
    pub(crate) fn tell(&self) {
        if !tracing::enabled!(target: TARGET, Level::INFO) {
            return;
        }
        match format() {
            Format::Json => ROOM.with_borrow_mut(|line| {
                line.clear();
                // A string takes whatever is written.
                if self.write(line).is_ok() {
                    lines::add(line.as_bytes());
                }
            }),
            Format::Pretty => self.work.during(|| {
                let Self { method, route, status, user, api_key, .. } = *self;
                let took = self.took.as_micros() as f64 / 1e3;
                let (user, api_key) =
                    (user.map(tracing::field::display), api_key.map(tracing::field::display));
                tracing::info!(
                    target: TARGET, { duration.ms = took, user.id = user, api_key.id = api_key },
                    "{method} {route} {status}"
                );
            }),
        }
    }

    fn write(&self, line: &mut String) -> fmt::Result {
        let Self { method, route, status, .. } = *self;
        let time = clock::now::<6>();
        line.push_str(r#"{"timestamp":""#);
        line.push_str(std::str::from_utf8(time.as_ref()).unwrap_or_default());
        line.push_str(r#"","level":"INFO","message":""#);
        line.push_str(method);
        line.push(' ');
        Escaped(&mut *line).write_str(route)?;
        line.push(' ');
        whole(line, status.into());
        line.push_str(r#"","http.method":""#);
        line.push_str(method);
        line.push_str(r#"","http.route":""#);
        Escaped(&mut *line).write_str(route)?;
        line.push_str(r#"","http.status":"#);
        whole(line, status.into());
        line.push_str(r#","duration.ms":"#);
        fraction::<3>(line, u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX));
        if let Some(UserId(user)) = self.user {
            id(line, "user.id", user);
        }
        if let Some(ApiKeyId(api_key)) = self.api_key {
            id(line, "api_key.id", api_key);
        }
        line.push_str(r#","target":""#);
        line.push_str(TARGET);
        line.push('"');
        json::request(line, self.work)?;
        line.push_str("}\n");
        Ok(())
    }
}

fn id(line: &mut String, name: &str, id: Uuid) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":\"");
    line.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tenantry_trace::Trace;

    use super::*;

    #[test]
    fn the_line_of_a_request_is_json_and_says_what_it_was() {
        let trace: Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let work = Work::request(trace, "r\"1");
        let answered = Answered {
            work: &work,
            method: "GET",
            route: "/api/v1/users/{id}",
            status: 200,
            took: Duration::from_micros(1_250),
            user: Some(UserId(Uuid::from_u128(7))),
            api_key: Some(ApiKeyId(Uuid::from_u128(8))),
        };
        let mut line = String::new();
        answered.write(&mut line).unwrap();
        let mut line: Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
        let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert_eq!(time.as_str().map(str::len), Some(27));
        let expected = json!({
            "level": "INFO", "message": "GET /api/v1/users/{id} 200", "http.method": "GET",
            "http.route": "/api/v1/users/{id}", "http.status": 200, "duration.ms": 1.25,
            "user.id": Uuid::from_u128(7), "api_key.id": Uuid::from_u128(8), "target": "tenantry::layers",
            "span": {
                "request.id": "r\"1", "trace.id": "0af7651916cd43dd8448eb211c80319c", "span.id": "b7ad6b7169203331",
                "name": "request",
            },
        });
        assert_eq!(line, expected);
    }
}
