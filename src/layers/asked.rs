//! What is read of a request before anything is done for it.

use std::net::IpAddr;

use poem::{
    Request,
    http::{HeaderValue, Method, Version, header, uri::Scheme},
    web::RemoteAddr,
};
use tenantry_accounts::{Network, UserId};
use tenantry_trace::Trace;
use uuid::Uuid;

use super::{body::STRIPE_WEBHOOK, headers::REQUEST_ID, trace};
use crate::{api::look_up, clock, state::State, weighted::Weighted};

/// Who is at the other end, as the limits and the list of sessions see it.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    /// Past the trusted proxies; none on a socket that has no addresses.
    pub(crate) address: Option<IpAddr>,
}

impl Client {
    /// What is remembered of the address in the audit trail.
    pub(crate) fn network(self) -> Option<Network> {
        self.address.map(Network::of)
    }
}

/// What is asked, for all that goes around its answer.
pub(super) struct Asked {
    pub(super) id: HeaderValue,
    pub(super) trace: Trace,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) is_tls: bool,
    pub(super) origin: Option<HeaderValue>,
    /// A browser asks whether it may ask.
    pub(super) is_preflight: bool,
    /// Errors are to be of RFC 9457.
    pub(super) problem_details: bool,
    pub(super) counts: Counts,
    pub(super) client: Client,
    /// The user that is asked for, on the way that look-ups have.
    pub(super) user: Option<UserId>,
}

impl Asked {
    pub(super) fn of(state: &State, request: &Request) -> Self {
        let headers = request.headers();
        Self {
            id: request_id(request),
            trace: trace::of(headers),
            method: request.method().clone(),
            version: request.version(),
            is_tls: *request.scheme() == Scheme::HTTPS,
            origin: headers.get(header::ORIGIN).cloned(),
            is_preflight: request.method() == Method::OPTIONS
                && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD),
            problem_details: prefers_problem_details(request),
            counts: counts(request),
            client: Client { address: address(state, request) },
            user: look_up::wanted(request),
        }
    }

    /// Its id; empty where it has none.
    pub(super) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

/// Whether a request counts against the limit by client address.
#[derive(PartialEq, Eq)]
pub(super) enum Counts {
    /// What nobody is signed in for: guessing passwords is not free for those who are.
    Always,
    /// Unless it carries a valid credential.
    Unsigned,
    Never,
}

fn counts(request: &Request) -> Counts {
    let path = request.uri().path().trim_end_matches('/');
    match path {
        "/api/v1/auth/register"
        | "/api/v1/auth/login"
        | "/api/v1/auth/refresh"
        | "/api/v1/auth/verify-email"
        | "/api/v1/auth/resend-verification"
        | "/api/v1/auth/forgot-password"
        | "/api/v1/auth/reset-password"
        | "/api/v1/invitations/accept" => Counts::Always,
        "/api/v1/tenants" | "/verify-email" | "/reset-password" | "/accept-invitation"
            if request.method() == Method::POST =>
        {
            Counts::Always
        }
        // Stripe sends from few addresses, and is known by its signature.
        STRIPE_WEBHOOK => Counts::Never,
        _ if path.starts_with("/api/") => Counts::Unsigned,
        _ => Counts::Never,
    }
}

/// The client's own id for the request when it is harmless, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let harmless = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    let theirs = request.headers().get(REQUEST_ID);
    theirs
        .filter(|id| id.to_str().is_ok_and(|id| harmless(&id)))
        .cloned()
        .or_else(|| HeaderValue::from_str(new_id().hyphenated().encode_lower(&mut [0; 36])).ok())
        .unwrap_or(HeaderValue::from_static("none"))
}

/// A UUID of version 7. (`Uuid::now_v7` asks the system for each.)
fn new_id() -> Uuid {
    let millis = u64::try_from(clock::since_1970().as_millis()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

fn address(state: &State, request: &Request) -> Option<IpAddr> {
    let RemoteAddr(address) = request.remote_addr();
    address.as_socket_addr().map(|peer| state.limits.client(peer.ip(), request.headers()))
}

/// RFC 9457 for those who ask for it, unless they would rather have the envelope.
fn prefers_problem_details(request: &Request) -> bool {
    let accepted = Weighted::of(request.headers(), &header::ACCEPT);
    let problem = accepted.weight("application/problem+json").unwrap_or(0);
    problem > 0 && problem >= accepted.weight("application/json").unwrap_or(0)
}
