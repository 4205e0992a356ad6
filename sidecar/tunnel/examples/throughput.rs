//! How fast is a tunnel over a loopback TCP carrier, both ends in this process?
//!
//! `cargo run --release -p tpdocker-tunnel --example throughput [MiB per round] [rounds]`
//!
//! One line an arm: the median of the rounds in MB/s and CPU seconds per GB of both ends together. The arms are raw
//! TCP, one stream, 64 streams, and one and 64 spliced connections with their sockets; then the round trip of one byte on a quiet and on a busy tunnel.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tpdocker_protocol::addr::{ClusterAddr, Target};
use tpdocker_tunnel::{Event, Events, Side, Stream, Tunnel, splice};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CHUNK: usize = 256 << 10;

#[derive(Clone, Copy)]
enum Arm {
    RawTcp,
    Streams(usize),
    Spliced(usize),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let bytes = args.next().map_or(Ok(1024), |arg| arg.parse::<usize>())? << 20;
    let rounds = args.next().map_or(Ok(5), |arg| arg.parse::<usize>())?;
    let arms = [
        ("raw TCP", Arm::RawTcp),
        ("1 stream", Arm::Streams(1)),
        ("64 streams", Arm::Streams(64)),
        ("1 spliced", Arm::Spliced(1)),
        ("64 spliced", Arm::Spliced(64)),
    ];
    println!("{:<12} {:>8} {:>10}", "arm", "MB/s", "CPU-s/GB");
    for (name, arm) in arms {
        let mut figures = Vec::new();
        for _ in 0..rounds {
            let (cpu, started) = (cpu_seconds()?, Instant::now());
            match arm {
                Arm::RawTcp => raw_tcp(bytes).await?,
                Arm::Streams(count) => streams(count, bytes / count).await?,
                Arm::Spliced(count) => spliced(count, bytes / count).await?,
            }
            let gigabytes = f64::from(u32::try_from(bytes >> 20)?) * f64::from(1 << 20) / 1e9;
            let wall = started.elapsed().as_secs_f64();
            figures.push((gigabytes * 1e3 / wall, (cpu_seconds()? - cpu) / gigabytes));
        }
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, cpu) = figures[figures.len() / 2];
        println!("{name:<12} {rate:>8.0} {cpu:>10.2}");
    }
    for (name, busy) in [("quiet", false), ("busy", true)] {
        let (median, p99) = round_trip(busy).await?;
        println!("round trip of a byte, {name} tunnel: p50 {median:?}, p99 {p99:?}");
    }
    Ok(())
}

async fn raw_tcp(bytes: usize) -> Result<(), Failure> {
    let (near, far) = tcp_pair().await?;
    let writer = tokio::spawn(fill(near, bytes));
    drain(far, bytes).await?;
    writer.await?
}

async fn streams(count: usize, bytes: usize) -> Result<(), Failure> {
    let (tunnels, pairs) = stream_pairs(count).await?;
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    let chunk = Bytes::from(vec![1; CHUNK]);
    for (mut near, mut far) in pairs {
        let chunk = chunk.clone();
        tasks.spawn(async move {
            let mut left = bytes;
            while left > 0 {
                let here = left.min(CHUNK);
                near.write(chunk.slice(..here)).await?;
                left -= here;
            }
            near.finish();
            near.read().await?;
            Ok(())
        });
        tasks.spawn(async move {
            let mut seen = 0;
            while let Some(chunk) = far.read().await? {
                seen += chunk.len();
            }
            far.finish();
            if seen == bytes { Ok(()) } else { Err(format!("{seen} bytes of {bytes}").into()) }
        });
    }
    join(tasks).await?;
    drop(tunnels);
    Ok(())
}

async fn spliced(count: usize, bytes: usize) -> Result<(), Failure> {
    let (tunnels, pairs) = stream_pairs(count).await?;
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for (near, far) in pairs {
        let (app, captured) = tcp_pair().await?;
        let (dialled, server) = tcp_pair().await?;
        tasks.spawn(async move { splice(near, captured).await.reset.map_or(Ok(()), |errno| Err(errno.into())) });
        tasks.spawn(async move { splice(far, dialled).await.reset.map_or(Ok(()), |errno| Err(errno.into())) });
        tasks.spawn(fill(app, bytes));
        tasks.spawn(drain(server, bytes));
    }
    join(tasks).await?;
    drop(tunnels);
    Ok(())
}

async fn round_trip(busy: bool) -> Result<(Duration, Duration), Failure> {
    const TRIPS: usize = 3000;
    let (tunnels, mut pairs) = stream_pairs(2).await?;
    let (Some((mut near, mut far)), Some((mut bulk, mut sink))) = (pairs.pop(), pairs.pop()) else {
        return Err("no streams".into());
    };
    if busy {
        let chunk = Bytes::from(vec![1; CHUNK]);
        tokio::spawn(async move { while bulk.write(chunk.clone()).await.is_ok() {} });
        tokio::spawn(async move { while matches!(sink.read().await, Ok(Some(_))) {} });
    }
    tokio::spawn(async move {
        while let Ok(Some(chunk)) = far.read().await {
            if far.write(chunk).await.is_err() {
                return;
            }
        }
    });
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let started = Instant::now();
        near.write(Bytes::from_static(b"x")).await?;
        near.read().await?;
        trips.push(started.elapsed());
    }
    trips.sort_unstable();
    drop(tunnels);
    Ok((trips[TRIPS / 2], trips[TRIPS * 99 / 100]))
}

type Ends = ((Tunnel, Events), (Tunnel, Events));

async fn stream_pairs(count: usize) -> Result<(Ends, Vec<(Stream, Stream)>), Failure> {
    let (near, far) = tcp_pair().await?;
    let (reader, writer) = near.into_split();
    let sidecar = Tunnel::start_halves(Side::Sidecar, reader, writer);
    let (reader, writer) = far.into_split();
    let mut proxy = Tunnel::start_halves(Side::Proxy, reader, writer);
    let target = Target::Dial(ClusterAddr(([10, 0, 0, 1], 80).into()));
    let mut pairs = Vec::new();
    for _ in 0..count {
        let accept = async {
            match proxy.1.next().await {
                Some(Event::Open(pending)) => Ok(pending.accept()),
                other => Err(format!("not an open: {other:?}")),
            }
        };
        let (near, far) = tokio::join!(sidecar.0.open(target), accept);
        pairs.push((near?, far?));
    }
    Ok(((sidecar, proxy), pairs))
}

async fn tcp_pair() -> Result<(TcpStream, TcpStream), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (near, (far, _)) = (near?, far?);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

async fn fill(mut socket: TcpStream, bytes: usize) -> Result<(), Failure> {
    let chunk = vec![1; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let here = left.min(CHUNK);
        socket.write_all(&chunk[..here]).await?;
        left -= here;
    }
    socket.shutdown().await?;
    match socket.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err("an answer where none was due".into()),
    }
}

async fn drain(mut socket: TcpStream, bytes: usize) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK];
    let mut seen = 0;
    loop {
        match socket.read(&mut buffer).await? {
            0 if seen == bytes => return Ok(()),
            0 => return Err(format!("{seen} bytes of {bytes}").into()),
            length => seen += length,
        }
    }
}

async fn join(mut tasks: JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// User and system time of this process: fields 14 and 15 of `proc_pid_stat(5)`, in ticks of 10 ms.
fn cpu_seconds() -> Result<f64, Failure> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().ok_or("an odd /proc/self/stat")?;
    let times: Vec<f64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(times.iter().sum::<f64>() / TICKS_PER_SECOND)
}
