//! The time that a tunnel spends on tracking WebSocket frames, by the content of one read.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moorline::tunnel::frame::FrameTracker;

/// Bytes of a read.
const READ: usize = 64 * 1024;

/// Masked binary frames with payloads of `payload` bytes, as many as fit into one read.
fn frames(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match payload {
        0..=125 => frame.push(0x80 | payload as u8),
        126..=0xffff => {
            frame.push(0xfe);
            frame.extend((payload as u16).to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend((payload as u64).to_be_bytes());
        }
    }
    frame.extend([7; 4]);
    frame.resize(frame.len() + payload, b'm');
    frame.repeat((READ / frame.len()).max(1))
}

fn pass(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    for (name, bytes) in [
        ("one of 64 B", frames(64)[..70].to_vec()),
        ("64 KiB of 64 B each", frames(64)),
        ("64 KiB of 4 KiB each", frames(4096)),
        ("64 KiB within one of 1 MiB", frames(1 << 20)[..READ].to_vec()),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut tracker = FrameTracker::new();
                tracker.pass(black_box(&bytes));
                tracker.at_boundary()
            });
        });
    }
}

criterion_group!(benches, pass);
criterion_main!(benches);
