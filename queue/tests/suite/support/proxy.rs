//! A wire to a server that can go silent without breaking, as when a firewall forgets a connection.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

pub(crate) struct Proxy {
    port: u16,
    /// Counts the silences. A connection forwards only in the period in which it was made.
    period: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (period, periods) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let periods = periods.clone();
                if let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await {
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::spawn(forward(near_in, far_out, periods.clone()));
                    tokio::spawn(forward(far_in, near_out, periods));
                }
            }
        });
        Self { port, period }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections of now stay open and carry nothing any more; later ones work.
    pub(crate) fn silence(&self) {
        self.period.send_modify(|period| *period += 1);
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut periods: watch::Receiver<u64>) {
    let began = *periods.borrow();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            () = async { drop(periods.wait_for(|now| *now != began).await) } => {
                // Neither end hears that the other is gone.
                return std::future::pending().await;
            }
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(count) if count > 0 && to.write_all(&buffer[..count]).await.is_ok() => {}
            Ok(_) | Err(_) => return,
        }
    }
}
