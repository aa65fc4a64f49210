//! `/users/bulk`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::Serialize;
use serde_json::Value;
use tenantry_accounts::{
    fields::{Email, Name},
    idempotency::Namer,
    passwords::StoredHash,
    users::{self, BulkRow, Extent, Outcome, Outcomes, Role, User},
};

use super::{
    Tag,
    body::{Body, Field, body, wrong},
    envelope::Envelope,
    idempotency::{IdempotencyKey, Keep, Kept, Repeatable},
    schema::shown,
};
use crate::{
    caller::Caller,
    error::{ApiError, FieldError},
    state::State,
};

pub(crate) struct BulkUsers;

/// How many users may be made at once.
const MOST: usize = 1_000;

body! {
    /// Users to be made.
    pub(crate) struct BulkCreate {
        /// In this order they get seats.
        users: Rows,
        /// Whether none is made unless all can be; false when left out.
        atomic: Option<bool>,
    }
}

body! {
    /// A user to be made with others.
    pub(crate) struct BulkUser {
        /// Unique within the tenant.
        email: Email,
        /// The user's full name.
        name: Name,
        /// At most your own role; `user` when left out.
        role: Option<Role>,
        /// The hash of a password that the user had elsewhere: of Argon2 or scrypt in the PHC string format, or of bcrypt. When left
        /// out, the user gets a mail to choose a password. Not with an API key.
        password_hash: Option<Hash>,
    }
}

/// A hash of a password that was chosen elsewhere.
#[derive(Debug)]
pub(crate) struct Hash(pub(crate) StoredHash);

impl Field for Hash {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        let text = match &value {
            Some(Value::String(text)) if text.len() <= 1024 => text,
            _ => {
                errors.push(wrong(at, "wrong_type", "Must be a string of at most 1024 characters"));
                return None;
            }
        };
        match text.parse::<StoredHash>() {
            Ok(hash) if hash.is_modest() => return Some(Self(hash)),
            Ok(_) => errors.push(wrong(
                at,
                "too_costly",
                "Costs more than 2^12 rounds of bcrypt, or 64 MiB, at each sign-in",
            )),
            Err(unusable) => errors.push(wrong(at, "invalid_hash", &format!("The hash {unusable}"))),
        }
        None
    }
}

shown!(Hash, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    max_length: Some(1024),
    ..MetaSchema::new_with_format("string", "password")
})));

/// 1 to 1,000 users, each of which may be wrong by itself.
#[derive(Debug)]
pub(crate) struct Rows {
    right: Vec<BulkRow>,
    wrong: Vec<(usize, Vec<FieldError>)>,
}

impl Field for Rows {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        let (code, message) = match value {
            Some(Value::Array(rows)) if (1..=MOST).contains(&rows.len()) => return Some(Self::of(rows, at)),
            Some(Value::Array(_)) => ("wrong_length", "Must hold 1 to 1000 users"),
            Some(_) => ("wrong_type", "Must be a list"),
            None => ("missing", "This field is required"),
        };
        errors.push(wrong(at, code, message));
        None
    }
}

impl Rows {
    fn of(rows: Vec<Value>, at: &str) -> Self {
        let mut parsed = Self { right: vec![], wrong: vec![] };
        for (index, row) in rows.into_iter().enumerate() {
            let mut errors = vec![];
            match row_of(row, &format!("{at}/{index}"), &mut errors) {
                Some(BulkUser { email, name, role, password_hash }) if errors.is_empty() => {
                    let (role, password_hash) =
                        (role.unwrap_or(Role::User), password_hash.map(|hash| hash.0));
                    parsed.right.push(BulkRow { index, email, name, role, password_hash });
                }
                _ => parsed.wrong.push((index, errors)),
            }
        }
        parsed
    }
}

fn row_of(mut row: Value, at: &str, errors: &mut Vec<FieldError>) -> Option<BulkUser> {
    refuse_password(&mut row, at, errors);
    BulkUser::parse(Some(row), at, errors)
}

/// A thousand of them would take what others sign in with.
pub(crate) fn refuse_password(row: &mut Value, at: &str, errors: &mut Vec<FieldError>) {
    if let Value::Object(fields) = row
        && fields.remove("password").is_some()
    {
        let message = "Passwords are not taken here: leave it out, and the user chooses one by mail, or send a password_hash";
        errors.push(wrong(&format!("{at}/password"), "not_allowed", message));
    }
}

shown!(Rows, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    items: Some(Box::new(BulkUser::schema_ref())),
    min_items: Some(1),
    max_items: Some(MOST),
    ..MetaSchema::new("array")
})), register: |registry| BulkUser::register(registry));

/// What became of a user that was to be made.
#[derive(Debug, Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
enum BulkOutcome {
    /// Made.
    Created,
    /// Somebody has the address.
    Exists,
    /// The address stands further up, too.
    Repeated,
    /// Fields are wrong.
    Invalid,
    /// You may not give this role, or not bring hashes of passwords.
    Forbidden,
    /// Every seat of the plan is used.
    NoSeat,
}

/// What became of one.
#[derive(Debug, Serialize, Object)]
struct BulkRowResult {
    /// Its place in the request, from 0.
    index: u32,
    /// What became of it.
    outcome: BulkOutcome,
    /// The user, if it was made.
    #[oai(nullable)]
    user: Option<User>,
    /// Why it was not, with pointers into the request.
    errors: Vec<FieldError>,
}

/// What became of each.
#[derive(Debug, Serialize, Object)]
struct BulkResult {
    /// How many were made.
    created: u32,
    /// How many were not.
    failed: u32,
    /// One for each that was sent, in their order.
    results: Vec<BulkRowResult>,
}

#[derive(ApiResponse)]
enum BulkMade {
    /// What became of each.
    #[oai(status = 207)]
    Made(Envelope<BulkResult>),
}

impl Keep<Outcomes> for BulkMade {
    fn keep(&self, _: &Outcomes) -> Kept {
        let Self::Made(envelope) = self;
        Kept::answer(207, None, None, envelope.body())
    }
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl BulkUsers {
    /// Create many users
    ///
    /// Up to 1,000, in one transaction, in a body of up to 1 MiB. Each that can be made is made, and the answer says of each what
    /// became of it; with `atomic` none is made unless all can be, and 422 names every row that cannot. Seats are given from the
    /// top. Each user gets a mail: to choose a password, or, where a hash came with it, to verify the address. For administrators.
    #[oai(path = "/bulk", method = "post", operation_id = "bulkCreateUsers")]
    async fn create(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<BulkCreate>,
    ) -> Result<Repeatable<BulkMade>, ApiError> {
        let BulkCreate { users: Rows { right, wrong }, atomic } = body.0;
        let extent = match (atomic.unwrap_or(false), wrong.is_empty()) {
            (false, _) => Extent::Each,
            (true, true) => Extent::All,
            (true, false) => Extent::None,
        };
        let wrong = Arc::new(wrong);
        let unread = wrong.clone();
        let made = move |outcomes: &Outcomes| BulkMade::Made(Envelope::of(&results(outcomes, &unread)));
        let created = key.once(&state, Namer::Actor(*caller), made, |once| {
            users::create_many(&state.app, *caller, right, extent, once)
        });
        created.await.map_err(|error| error.beside(wrong.iter().flat_map(|(_, errors)| errors).cloned()))
    }
}

fn results(outcomes: &Outcomes, wrong: &[(usize, Vec<FieldError>)]) -> BulkResult {
    let row = |index: usize, outcome, user, errors| BulkRowResult {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        outcome,
        user,
        errors,
    };
    let read = outcomes.iter().map(|(index, outcome)| {
        let errors = refusal(*index, outcome).into_iter().collect();
        match outcome {
            Outcome::Created(user) => row(*index, BulkOutcome::Created, Some(user.clone()), errors),
            Outcome::Exists => row(*index, BulkOutcome::Exists, None, errors),
            Outcome::Repeated => row(*index, BulkOutcome::Repeated, None, errors),
            Outcome::RoleForbidden | Outcome::HashForbidden => {
                row(*index, BulkOutcome::Forbidden, None, errors)
            }
            Outcome::NoSeat => row(*index, BulkOutcome::NoSeat, None, errors),
        }
    });
    let unread = wrong.iter().map(|(index, errors)| row(*index, BulkOutcome::Invalid, None, errors.clone()));
    let mut results: Vec<_> = read.chain(unread).collect();
    results.sort_by_key(|row| row.index);
    let count = |made: bool| results.iter().filter(|row| row.user.is_some() == made).count();
    let [created, failed] = [true, false].map(|made| u32::try_from(count(made)).unwrap_or(u32::MAX));
    BulkResult { created, failed, results }
}

/// What is wrong with a row that could be read; none: it was made.
pub(crate) fn refusal(index: usize, outcome: &Outcome) -> Option<FieldError> {
    let (field, code, message) = match outcome {
        Outcome::Created(_) => return None,
        Outcome::Exists => ("/email", "email_taken", "User with this email already exists"),
        Outcome::Repeated => ("/email", "repeated", "This address is there already"),
        Outcome::RoleForbidden => ("/role", "forbidden", "Your role does not allow this"),
        Outcome::HashForbidden => {
            ("/password_hash", "forbidden", "API keys make users who choose a password by mail")
        }
        Outcome::NoSeat => {
            ("", "no_seat_left", "Every seat of the plan is used; delete users or change the plan")
        }
    };
    Some(wrong(&format!("/users/{index}{field}"), code, message))
}
