//! The bare server that look-ups are compared with: poem, one route, the same bytes for everybody. With a URL of Redis it
//! gets them from there each time, over one multiplexed connection.

use std::error::Error;

use bytes::Bytes;
use deadpool_redis::redis::{Client, aio::MultiplexedConnection, cmd};
use poem::{
    Response, Route, Server,
    endpoint::{make, make_sync},
    get,
    listener::TcpListener,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(body)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bare ADDRESS BODY [REDIS_URL]".into());
    };
    let body = Bytes::from(body);
    let routes = match arguments.next() {
        None => Route::new().at("/", get(make_sync(move |_| answer(body.clone())))),
        Some(url) => {
            let mut redis = Client::open(url)?.get_multiplexed_async_connection().await?;
            cmd("SET").arg("bare").arg(&body[..]).exec_async(&mut redis).await?;
            Route::new().at("/", get(make(move |_| fetch(redis.clone()))))
        }
    };
    Ok(Server::new(TcpListener::bind(address)).run(routes).await?)
}

async fn fetch(mut redis: MultiplexedConnection) -> poem::Result<Response> {
    let body: Vec<u8> =
        cmd("GET").arg("bare").query_async(&mut redis).await.map_err(poem::error::BadGateway)?;
    Ok(answer(body.into()))
}

fn answer(body: Bytes) -> Response {
    Response::builder().content_type("application/json").body(body)
}
