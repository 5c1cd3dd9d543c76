//! The answering side: a thread for each TCP connection, one for all datagrams.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result};

use super::kind;

pub fn run(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot receive at {address}"))?;
    // A burst must not be lost in the receiver's own queue: refused at worst.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || echo(connection));
        }
    });
    println!("ready");
    answer(&socket)
}

fn echo(mut connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let mut byte = [0];
    while connection.read_exact(&mut byte).is_ok() && connection.write_all(&byte).is_ok() {}
}

fn answer(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 2048];
    let mut counted = 0_u64;
    loop {
        // A client that is gone makes its port unreachable; the next datagram is from another.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        match buffer[0] {
            kind::COUNT => counted += 1,
            kind::REPORT => {
                let _ = socket.send_to(&std::mem::take(&mut counted).to_be_bytes(), from);
            }
            _ => {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    }
}
