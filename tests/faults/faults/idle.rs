//! A crowd of clients that have asked once and then keep their connections for nothing.

use std::{net::Ipv4Addr, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};

use super::Scene;
use crate::{
    Result,
    cluster::Cluster,
    load::{between, quantile, statuses},
};

/// Connections of one address.
const EACH: usize = 100;
const MEASURED: Duration = Duration::from_secs(5);

pub(super) async fn crowd(mut scene: Scene<'_>) -> Result<()> {
    let wanted = scene.settings.idle;
    // Of ours, and those that the process has of itself.
    if rlimit::increase_nofile_limit(wanted as u64 + 500)? < wanted as u64 + 500 {
        return Err(
            format!("{wanted} connections are more files than may be open: raise `ulimit -Hn`").into()
        );
    }
    let most = (wanted + 1000).to_string();
    let settings = [("MAX_CONNECTIONS", most.as_str()), ("MAX_CONNECTIONS_PER_ADDRESS", "100")];
    let cluster = scene.cluster(1, &settings).await?;
    let load = cluster.target.start(scene.settings.rate);
    let from = Instant::now();
    sleep(MEASURED).await;
    let (crowded, memory) = (Instant::now(), memory(&cluster)?);
    let crowd: Vec<TcpStream> =
        stream::iter(0..wanted).map(|n| ask_once(&cluster, n)).buffered(64).try_collect().await?;
    let (there, grown) = (Instant::now(), self::memory(&cluster)?.saturating_sub(memory));
    sleep(MEASURED).await;
    let open = crowd.iter().filter(|stream| is_open(stream)).count();
    let to = Instant::now();
    let seen = load.end().await?;
    let failed = between(&seen, from, to).filter(|one| !one.is_answered());
    let is_asked =
        between(&seen, from, crowded).next().is_some() && between(&seen, there, to).next().is_some();
    let told = format!("{open} open of {wanted}; failed: {}", statuses(failed.clone()));
    scene.judge(
        "they are kept, and nobody else is refused",
        open == wanted && failed.count() == 0 && is_asked,
        told,
    );
    let (before, after) =
        (quantile(between(&seen, from, crowded), 990), quantile(between(&seen, there, to), 990));
    scene.judge(
        "answers are not slower for it",
        is_asked && after <= before * 10 + Duration::from_millis(10),
        format!(
            "p99 {:.1} ms before, {:.1} ms with them",
            before.as_secs_f64() * 1e3,
            after.as_secs_f64() * 1e3
        ),
    );
    let each = grown as f64 / wanted as f64 / 1024.0;
    scene.judge("a connection that is idle costs little memory", each < 100.0, format!("{each:.1} KiB each"));
    drop(crowd);
    cluster.stop().await
}

/// From an address of its own hundred: all of 127.0.0.0/8 is this machine.
async fn ask_once(cluster: &Cluster, n: usize) -> Result<TcpStream> {
    let client = u32::try_from(n / EACH)? + 2;
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from(0x7f00_0000 + client), 0).into())?;
    let mut stream = socket.connect(cluster.target.address).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: tenantry.test\r\n\r\n").await?;
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await?;
    if &answer != b"HTTP/1.1 200 OK" {
        return Err(format!("answered with {:?}", String::from_utf8_lossy(&answer)).into());
    }
    // What else was said is of no interest, and would look like the end of nothing.
    let mut rest = [0; 8192];
    let said = stream.read(&mut rest).await?;
    if said == 0 { Err("closed".into()) } else { Ok(stream) }
}

/// Nothing has been said, not even that it is over.
fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Resident, in bytes.
fn memory(cluster: &Cluster) -> Result<u64> {
    let pid = cluster.nodes[0].pid().ok_or("the process has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
