//! What the generated Rust client does against a live service. `tests/it/sdks.rs` runs it, and answers on its standard input what a
//! mail says.
#![deny(warnings)]

use std::{collections::BTreeSet, env, error::Error as Failure, io};

use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue};
use tenantry_client::{
    Client, Error, ResponseValue,
    types::{
        CreateUser, ErrorCode, ErrorResponse, Login, Logout, NewTenant, Refresh, SignUp, UpdateUser,
        UserPagination, VerifyEmail,
    },
};
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Failure>>;

const PASSWORD: &str = "Correct-Horse-1";
const EMAIL: &str = "ada@acme.example";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let (url, slug) = (env::var("TENANTRY_URL")?, env::var("TENANTRY_TENANT")?);
    let anonymous = Client::new(&url);

    register(&anonymous, &slug).await?;
    let session = sign_in(&anonymous, &slug).await?;
    let client = signed_in(&url, &session.token)?;
    let users = users(&client).await?;
    one_user(&client, users[0]).await?;
    every_page(&client, &users[1..]).await?;

    let body = Logout { refresh_token: Some(session.refresh_token.parse()?) };
    client.logout().body(body).send().await?;
    let refused = failure(client.get_me().send().await);
    assert_eq!(refused.error.code, ErrorCode::Unauthenticated);
    println!("done");
    Ok(())
}

async fn register(client: &Client, slug: &str) -> Outcome<()> {
    let body = SignUp::builder()
        .tenant(NewTenant::builder().name("Acme").slug(slug))
        .email(EMAIL)
        .password(PASSWORD)
        .name("Ada Lovelace");
    let made = client.register().body(body).send().await?.into_inner();
    assert!(!made.data.user.email_verified);
    println!("verify {} {EMAIL}", made.data.tenant.id);
    let mut token = String::new();
    io::stdin().read_line(&mut token)?;
    let verified = client.verify_email().body(VerifyEmail::builder().token(token.trim())).send().await?;
    assert!(verified.into_inner().data.email_verified);
    Ok(())
}

async fn sign_in(client: &Client, slug: &str) -> Outcome<tenantry_client::types::SignedInSession> {
    let tenant = Some(slug.parse()?);
    let login = |password: &str| Login::builder().tenant(tenant.clone()).email(EMAIL).password(password);
    let refused = failure(client.login().body(login("Wrong-Horse-1")).send().await);
    assert_eq!((refused.error.code, refused.error.status_code), (ErrorCode::InvalidCredentials, 401));
    let begun = client.login().body(login(PASSWORD)).send().await?.into_inner().data;
    let body = Refresh::builder().refresh_token(begun.refresh_token.as_str());
    let renewed = client.refresh_session().body(body).send().await?.into_inner().data;
    assert_ne!(renewed.refresh_token, begun.refresh_token);
    Ok(renewed)
}

fn signed_in(url: &str, token: &str) -> Outcome<Client> {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?)]);
    Ok(Client::new_with_client(url, reqwest::Client::builder().default_headers(headers).build()?))
}

/// Makes five users; their ids.
async fn users(client: &Client) -> Outcome<Vec<Uuid>> {
    let wanted = |email: &str| CreateUser::builder().email(email).name("Grace Hopper");
    let mut ids = vec![];
    for n in 0..5 {
        let made = client.create_user().body(wanted(&format!("user{n}@acme.example"))).send().await?;
        assert_eq!(tag(&made), "\"1\"");
        ids.push(made.into_inner().data.id);
    }
    let taken = failure(client.create_user().body(wanted("user0@acme.example")).send().await);
    assert_eq!((taken.error.code, taken.error.status_code), (ErrorCode::EmailTaken, 409));
    let wrong = wanted("nobody").password(Some("too-simple".parse()?));
    let wrong = failure(client.create_user().body(wrong).send().await);
    assert_eq!((wrong.error.code, wrong.error.status_code), (ErrorCode::ValidationFailed, 422));
    let fields: BTreeSet<_> = wrong.error.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, BTreeSet::from(["/email", "/password"]));
    Ok(ids)
}

async fn one_user(client: &Client, id: Uuid) -> Outcome<()> {
    let read = client.get_user().id(id).send().await?;
    let (etag, user) = (tag(&read).to_owned(), read.into_inner().data);
    assert_eq!((user.name.as_str(), user.pending_email.is_none()), ("Grace Hopper", true));
    match client.get_user().id(id).if_none_match(etag.clone()).send().await {
        Err(Error::UnexpectedResponse(answer)) => assert_eq!(answer.status(), 304),
        other => panic!("{other:?}"),
    }
    let change = || UpdateUser::builder().name(Some("Grace Murray Hopper".parse().expect("a name")));
    let changed = client.update_user().id(id).if_match(etag.clone()).body(change()).send().await?;
    assert_eq!((tag(&changed), changed.data.name.as_str()), ("\"2\"", "Grace Murray Hopper"));
    let stale = failure(client.update_user().id(id).if_match(etag).body(change()).send().await);
    assert_eq!((stale.error.code, stale.error.status_code), (ErrorCode::VersionMismatch, 412));
    client.delete_user().id(id).send().await?;
    let gone = failure(client.get_user().id(id).send().await);
    assert_eq!((gone.error.code, gone.error.status_code), (ErrorCode::UserNotFound, 404));
    Ok(())
}

/// Lists everybody, two at a time.
async fn every_page(client: &Client, users: &[Uuid]) -> Outcome<()> {
    let (mut found, mut parts, mut cursor) = (BTreeSet::new(), 0, Some("first".to_owned()));
    while let Some(at) = cursor {
        let part = client.list_users().cursor(at).limit(2).send().await?.into_inner();
        parts += 1;
        assert!(part.data.iter().all(|user| found.insert(user.id)), "nobody comes twice");
        cursor = match part.pagination {
            UserPagination::Cursor(next) => next.next_cursor,
            UserPagination::Pagination(page) => panic!("{page:?}"),
        };
    }
    assert_eq!((found.len(), parts), (5, 3));
    assert!(users.iter().all(|id| found.contains(id)));
    Ok(())
}

/// What the service says is wrong.
fn failure<T: std::fmt::Debug>(answer: Result<T, Error<ErrorResponse>>) -> ErrorResponse {
    match answer {
        Err(Error::ErrorResponse(answer)) => answer.into_inner(),
        other => panic!("no error of the document: {other:?}"),
    }
}

fn tag<T>(answer: &ResponseValue<T>) -> &str {
    answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default()
}
