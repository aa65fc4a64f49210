//! The look-up of a user on a way of its own. It is what is asked most, and the general way to an operation takes longer than
//! the cache does. What is not just `GET /api/v1/users/{id}` goes the general way, to the operation that says how this one
//! behaves; a test holds the two against each other (tests/it/look_up.rs).

use std::sync::LazyLock;

use bytes::Bytes;
use poem::{
    Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
};
use tenantry_accounts::{TenantId, UserId, users};
use tenantry_cache::Level;

use super::{
    PREFIX,
    envelope::{self, Condition},
    params::{MinVersion, Value},
};
use crate::{
    caller::{Caller, Credential},
    error::{ApiError, Code},
    layers::Client,
    operations::Operation,
    state::State,
};

/// The route, as poem-openapi writes it.
pub(crate) const PATTERN: &str = "/api/v1/users/:param0";

const X_MIN_VERSION: HeaderName = HeaderName::from_static("x-min-version");

/// A user that was found.
pub(crate) struct LookedUp {
    /// The envelope around the user; none: the version that the client has is the current one.
    pub(crate) body: Option<Bytes>,
    pub(crate) version: i64,
    pub(crate) level: Level,
}

/// The user that a request asks for, if it asks for nothing else.
pub(crate) fn wanted(request: &Request) -> Option<UserId> {
    const LENGTH: usize = 36;
    let uri = request.uri();
    let id = uri.path().strip_prefix(PREFIX)?.strip_prefix("/users/").filter(|id| id.len() == LENGTH)?;
    let has_body = || {
        let headers = request.headers();
        headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
            || headers.contains_key(header::TRANSFER_ENCODING)
    };
    let is_plain = request.method() == Method::GET && uri.query().is_none() && !has_body();
    is_plain.then(|| id.parse().ok()).flatten()
}

/// Looks the user up for whoever came with this credential.
///
/// # Errors
/// As the operation has them.
pub(crate) async fn look_up(
    state: &State,
    id: UserId,
    credential: &Credential,
    client: Client,
    headers: &HeaderMap,
) -> Result<LookedUp, ApiError> {
    static OPERATION: LazyLock<Option<Operation>> = LazyLock::new(|| Operation::by_id("getUser"));
    let operation = OPERATION.ok_or_else(ApiError::internal)?;
    let caller = Caller::admit(state, operation, credential, client.network(), headers).await?;
    find(state, caller.tenant, id, Asked::of(headers)?).await
}

/// What a look-up is asked beside for whom.
pub(super) struct Asked {
    pub(super) known: Option<Condition>,
    pub(super) min: Option<i64>,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let first = |name: &HeaderName| headers.get_all(name).iter().find_map(|line| line.to_str().ok());
        let min = first(&X_MIN_VERSION).map(MinVersion::parse).transpose();
        let min = min.map_err(|(_, message)| ApiError::new(Code::Malformed, message))?;
        Ok(Self {
            known: first(&header::IF_NONE_MATCH).map(Condition::parse),
            min: min.map(|version| version.0),
        })
    }
}

/// Looks a user up, whoever asked on whatever way.
pub(super) async fn find(
    state: &State,
    tenant: TenantId,
    id: UserId,
    asked: Asked,
) -> Result<LookedUp, ApiError> {
    let found = users::get(&state.app, tenant, id, asked.min).await?;
    Ok(LookedUp::of(&found, asked.known))
}

impl LookedUp {
    pub(crate) const fn status(&self) -> StatusCode {
        if self.body.is_some() { StatusCode::OK } else { StatusCode::NOT_MODIFIED }
    }

    pub(super) fn of(found: &users::Found, known: Option<Condition>) -> Self {
        let (version, level) = (found.entry.version, found.level);
        let is_known = known.is_some_and(|known| known.holds(version));
        let body = (!is_known).then(|| envelope::around(&found.entry.body));
        Self { body, version, level }
    }
}

/// The level that answered, as `X-Cache` says it.
pub(crate) const fn name(level: Level) -> &'static str {
    match level {
        Level::Local => "local",
        Level::Redis => "redis",
        Level::Postgres => "miss",
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_plain_get_of_a_user_is_a_look_up_and_nothing_else_is() {
        let id = Uuid::now_v7();
        let request = |method: Method, path: String| Request::builder().method(method).uri_str(path);
        let path = format!("/api/v1/users/{id}");
        let plain = request(Method::GET, path.clone());
        assert_eq!(wanted(&plain.finish()), Some(UserId(id)));
        let empty = request(Method::GET, path.clone()).header("content-length", "0");
        assert_eq!(wanted(&empty.finish()), Some(UserId(id)));
        let others = [
            request(Method::HEAD, path.clone()),
            request(Method::DELETE, path.clone()),
            request(Method::GET, format!("{path}?")),
            request(Method::GET, format!("{path}/")),
            request(Method::GET, format!("/api/v1/users/{}", id.simple())),
            request(Method::GET, format!("/api/v1/tenants/{id}")),
            request(Method::GET, "/api/v1/users/this-is-thirty-six-characters-long-x".into()),
            request(Method::GET, path.clone()).header("content-length", "2"),
            request(Method::GET, path).header("transfer-encoding", "chunked"),
        ];
        for other in others {
            let other = other.finish();
            assert_eq!(wanted(&other), None, "{other:?}");
        }
    }
}
