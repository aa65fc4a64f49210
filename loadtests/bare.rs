//! The bare server that look-ups are compared with: poem, one route, the same bytes for everybody.

use poem::{Route, Server, endpoint::make_sync, get, listener::TcpListener};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (mut arguments, usage) = (std::env::args().skip(1), "usage: bare ADDRESS BODY");
    let address = arguments.next().ok_or(std::io::Error::other(usage))?;
    let body = bytes::Bytes::from(arguments.next().ok_or(std::io::Error::other(usage))?);
    let answer =
        make_sync(move |_| poem::Response::builder().content_type("application/json").body(body.clone()));
    Server::new(TcpListener::bind(address)).run(Route::new().at("/", get(answer))).await
}
