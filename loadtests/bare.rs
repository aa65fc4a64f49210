//! The bare server that look-ups are compared with: poem, one route, the same bytes for everybody. With a URL of Redis it
//! gets them from there each time, over one multiplexed connection. Accept loop, runtime, allocator and profile are ours.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use deadpool_redis::redis::{Client, aio::MultiplexedConnection, cmd};
use poem::{
    Endpoint, Response, Route,
    endpoint::{make, make_sync},
    get,
};
use tenantry::{server, transport};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    server::runtime()?.block_on(serve())
}

async fn serve() -> Result<()> {
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
    let routes = Arc::new(routes);
    let service = move |request| {
        let routes = routes.clone();
        async move { routes.get_response(request).await }
    };
    let settings = transport::Settings {
        header_timeout: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        connections: 10_000,
        connections_per_address: 10_000,
        proxies: vec![],
        tls: None,
        grace: Duration::ZERO,
    };
    let listener = transport::listen(address.parse()?)?;
    transport::serve(listener, settings, CancellationToken::new(), service).await;
    Ok(())
}

async fn fetch(mut redis: MultiplexedConnection) -> poem::Result<Response> {
    let body: Vec<u8> =
        cmd("GET").arg("bare").query_async(&mut redis).await.map_err(poem::error::BadGateway)?;
    Ok(answer(body.into()))
}

fn answer(body: Bytes) -> Response {
    Response::builder().content_type("application/json").body(body)
}
