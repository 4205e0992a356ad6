//! Streams between two tunnels.

mod support;

use bytes::Bytes;
use support::{check_pattern, dial, in_memory, next_open, over_tcp, stream_pair, within, write_pattern};
use tpdocker_protocol::addr::{ClusterAddr, Target};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{OpenError, Stream};

async fn read_all(stream: &mut Stream) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.read().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn a_request_is_answered_after_the_half_close_of_the_client() {
    let mut pair = in_memory();
    let (mut client, mut server) = stream_pair(&mut pair).await;
    client.write(Bytes::from_static(b"request")).await.unwrap();
    client.finish();
    assert_eq!(within(read_all(&mut server)).await.unwrap(), b"request");
    server.write(Bytes::from_static(b"answer")).await.unwrap();
    server.finish();
    assert_eq!(within(read_all(&mut client)).await.unwrap(), b"answer");
    assert_eq!(client.write(Bytes::from_static(b"more")).await, Err(Errno::EPIPE));
}

#[tokio::test]
async fn a_server_that_closes_first_still_reads_the_client() {
    let mut pair = in_memory();
    let (mut client, mut server) = stream_pair(&mut pair).await;
    server.finish();
    assert_eq!(within(client.read()).await, Ok(None));
    client.write(Bytes::from_static(b"late")).await.unwrap();
    client.finish();
    assert_eq!(within(read_all(&mut server)).await.unwrap(), b"late");
}

#[tokio::test]
async fn the_proxy_opens_streams_to_the_sidecar() {
    let mut pair = in_memory();
    let peer = ClusterAddr("10.1.2.3:4567".parse().unwrap());
    let target = Target::Deliver { port: 8080, peer };
    let (opened, pending) = within(async {
        tokio::join!(pair.proxy.open(target), async {
            let pending = next_open(&mut pair.sidecar_events).await;
            let seen = pending.target();
            (pending.accept(), seen)
        })
    })
    .await;
    assert_eq!(pending.1, target);
    drop(opened.unwrap());
}

#[tokio::test]
async fn a_refusal_carries_its_errno() {
    let mut pair = in_memory();
    let (opened, ()) = within(async {
        tokio::join!(pair.sidecar.open(dial(81)), async {
            next_open(&mut pair.proxy_events).await.refuse(Errno::ECONNREFUSED);
        })
    })
    .await;
    assert_eq!(opened.unwrap_err(), OpenError::Refused(Errno::ECONNREFUSED));
}

#[tokio::test]
async fn an_open_that_nobody_decides_is_refused_as_aborted() {
    let mut pair = in_memory();
    let (opened, ()) = within(async {
        tokio::join!(pair.sidecar.open(dial(81)), async { drop(next_open(&mut pair.proxy_events).await) })
    })
    .await;
    assert_eq!(opened.unwrap_err(), OpenError::Refused(Errno::ECONNABORTED));
    drop(pair.proxy_events);
    let opened = within(pair.sidecar.open(dial(82))).await;
    assert_eq!(opened.unwrap_err(), OpenError::Refused(Errno::ECONNABORTED));
}

#[tokio::test]
async fn dropping_an_open_takes_it_back_at_the_other_end() {
    let mut pair = in_memory();
    let mut open = Box::pin(pair.sidecar.open(dial(83)));
    let pending = tokio::select! {
        _ = &mut open => panic!("nobody has answered"),
        pending = next_open(&mut pair.proxy_events) => pending,
    };
    drop(open);
    within(pending.cancelled()).await;
    let mut stream = pending.accept();
    assert_eq!(stream.read().await, Err(Errno::ECONNABORTED));
}

#[tokio::test]
async fn a_reset_is_seen_by_both_directions_of_the_other_end() {
    let mut pair = in_memory();
    let (mut client, mut server) = stream_pair(&mut pair).await;
    server.write(Bytes::from_static(b"before")).await.unwrap();
    assert_eq!(within(client.read()).await.unwrap().unwrap(), "before");
    server.reset(Errno::ETIMEDOUT);
    assert_eq!(within(client.failed()).await, Errno::ETIMEDOUT);
    assert_eq!(client.read().await, Err(Errno::ETIMEDOUT));
    assert_eq!(client.write(Bytes::from_static(b"x")).await, Err(Errno::ETIMEDOUT));
}

#[tokio::test]
async fn a_stream_that_is_dropped_unfinished_is_reset() {
    let mut pair = in_memory();
    let (client, mut server) = stream_pair(&mut pair).await;
    drop(client);
    assert_eq!(within(server.read()).await, Err(Errno::ECONNRESET));
}

#[tokio::test]
async fn a_finished_stream_that_is_dropped_still_delivers_what_it_wrote() {
    let mut pair = in_memory();
    let (mut client, mut server) = stream_pair(&mut pair).await;
    server.finish();
    assert_eq!(within(client.read()).await, Ok(None));
    let (read, mut write) = client.into_split();
    let writer = tokio::spawn(async move {
        write_pattern(&mut write, 1, 1 << 20, 100_000).await;
        drop((read, write));
    });
    let (mut read, _write) = server.into_split();
    assert_eq!(within(check_pattern(&mut read, 1)).await, 1 << 20);
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_carry_their_own_bytes_both_ways_at_once() {
    const STREAMS: u64 = 200;
    let mut pair = over_tcp().await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..STREAMS {
        let (client, server) = stream_pair(&mut pair).await;
        // Sizes around every limit: nothing, a byte, a quantum, a window, several windows.
        let length = [0, 1, 5_000, 65_536, 262_144, 262_145, 1_000_000][(seed % 7) as usize];
        let chunk = [1_000, 65_536, 300_000][(seed % 3) as usize].min(length.max(1));
        for (direction, (from, to)) in [(client, server)].into_iter().flat_map(|(client, server)| {
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            [(client_write, server_read), (server_write, client_read)].into_iter().enumerate()
        }) {
            let (mut from, mut to) = (from, to);
            let seed = seed * 2 + direction as u64;
            tasks.spawn(async move { write_pattern(&mut from, seed, length, chunk).await });
            tasks.spawn(async move { assert_eq!(check_pattern(&mut to, seed).await, length) });
        }
    }
    within(async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap()
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_holds_up_only_itself() {
    let mut pair = over_tcp().await;
    let (stalled, mut stalled_writer) = stream_pair(&mut pair).await;
    let (busy, busy_writer) = stream_pair(&mut pair).await;
    let blocked = tokio::spawn(async move {
        let chunk = Bytes::from(vec![0; 64 << 10]);
        let mut written = 0;
        while stalled_writer.write(chunk.clone()).await.is_ok() {
            written += chunk.len();
        }
        written
    });
    let (mut read, _busy_write) = busy.into_split();
    let (_read, mut write) = busy_writer.into_split();
    let writer = tokio::spawn(async move { write_pattern(&mut write, 7, 32 << 20, 64 << 10).await });
    assert_eq!(within(check_pattern(&mut read, 7)).await, 32 << 20);
    writer.await.unwrap();
    drop(stalled);
    let written = within(blocked).await.unwrap();
    assert!(written <= 1 << 20, "{written} bytes were taken from a writer whose reader never read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_streams_open_at_once() {
    const STREAMS: u16 = 2000;
    let mut pair = over_tcp().await;
    let opens: Vec<_> = (1..=STREAMS)
        .map(|port| {
            let tunnel = pair.sidecar.clone();
            tokio::spawn(async move {
                let mut stream = tunnel.open(dial(port)).await.unwrap();
                stream.write(Bytes::copy_from_slice(&port.to_be_bytes())).await.unwrap();
                stream.finish();
                assert_eq!(read_all(&mut stream).await.unwrap(), port.to_be_bytes());
            })
        })
        .collect();
    let server = tokio::spawn(async move {
        for _ in 0..STREAMS {
            let pending = next_open(&mut pair.proxy_events).await;
            tokio::spawn(async move {
                let mut stream = pending.accept();
                let request = read_all(&mut stream).await.unwrap();
                stream.write(request.into()).await.unwrap();
                stream.finish();
            });
        }
        pair.proxy_events
    });
    for open in opens {
        within(open).await.unwrap();
    }
    drop(within(server).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_gigabyte_goes_through_one_stream_unharmed() {
    const LENGTH: usize = 256 << 20;
    const BLOCK: usize = 1 << 20;
    let mut pair = over_tcp().await;
    let (mut client, mut server) = stream_pair(&mut pair).await;
    // Making the pattern byte by byte would take longer than carrying it.
    let block = support::pattern(3, 0, BLOCK);
    let expected = block.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..LENGTH / BLOCK {
            client.write(block.clone()).await.unwrap();
        }
        client.finish();
        client.read().await
    });
    let mut offset = 0;
    while let Some(mut chunk) = within(server.read()).await.unwrap() {
        while !chunk.is_empty() {
            let place = offset % BLOCK;
            let here = chunk.split_to(chunk.len().min(BLOCK - place));
            assert!(here == expected[place..place + here.len()], "differs after {offset}");
            offset += here.len();
        }
    }
    assert_eq!(offset, LENGTH);
    server.finish();
    assert_eq!(within(writer).await.unwrap(), Ok(None));
}
