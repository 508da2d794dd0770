use super::*;

/// Backends whose clients reconnect three seconds after a close, to the backend that `choose` returns.
struct SimulatedPool {
    backends: Vec<BackendShare>,
    /// Serial of the backend that takes no new sessions.
    down: Option<u64>,
    rebalance: PoolRebalance,
    returning: Vec<Instant>,
    now: Instant,
    closed: usize,
}

impl SimulatedPool {
    fn new(tunnels: &[usize]) -> Self {
        Self {
            backends: (1..).zip(tunnels).map(|(serial, &tunnels)| share(serial, tunnels)).collect(),
            down: None,
            rebalance: PoolRebalance::default(),
            returning: Vec::new(),
            now: Instant::now(),
            closed: 0,
        }
    }

    fn run(&mut self, seconds: u64, per_second: f64, choose: impl Fn(&[BackendShare]) -> usize) {
        for _ in 0..seconds * 4 {
            self.tick(per_second, &choose);
        }
    }

    fn tick(&mut self, per_second: f64, choose: impl Fn(&[BackendShare]) -> usize) {
        self.now += TICK;
        let members = self.backends.iter().map(|share| (share.serial, 1)).collect();
        let up = self.backends.iter().filter(|share| Some(share.serial) != self.down);
        let up = up.copied().collect();
        self.rebalance.update(members, up);
        for (serial, count) in self.rebalance.step(per_second * TICK.as_secs_f64(), self.now) {
            self.backends[serial as usize - 1].tunnels -= count;
            self.closed += count;
            let back = self.now + Duration::from_secs(3);
            self.returning.extend(std::iter::repeat_n(back, count));
        }
        while self.returning.first().is_some_and(|&back| back <= self.now) {
            self.returning.remove(0);
            let to = choose(&self.backends);
            self.backends[to].tunnels += 1;
        }
    }

    /// Runs while the third backend is in slow start, for `seconds`.
    fn grow(&mut self, seconds: u64, per_second: f64, choose: impl Fn(&[BackendShare]) -> usize) {
        self.backends.iter_mut().for_each(|share| share.weight = 64);
        for tick in 0..seconds * 4 {
            let weight = 6 + (58 * tick / (seconds * 4)) as u32;
            (self.backends[2].weight, self.backends[2].slow_start) = (weight, true);
            self.tick(per_second, &choose);
        }
        (self.backends[2].weight, self.backends[2].slow_start) = (64, false);
    }

    fn tunnels(&self) -> Vec<usize> {
        self.backends.iter().map(|share| share.tunnels).collect()
    }
}

fn share(serial: u64, tunnels: usize) -> BackendShare {
    BackendShare { serial, weight: 1, slow_start: false, tunnels }
}

fn fewest(backends: &[BackendShare]) -> usize {
    let at = 0..backends.len();
    at.min_by_key(|&at| backends[at].tunnels * 1000 / backends[at].weight as usize).unwrap()
}

#[test]
fn pool_is_balanced_once_and_then_left_alone() {
    for rate in [5.0, 50.0, 5_000.0] {
        let mut pool = SimulatedPool::new(&[300, 300, 0]);
        pool.run(120, rate, fewest);
        assert_eq!((pool.tunnels(), pool.closed), (vec![200, 200, 200], 200), "at {rate}");
        pool.run(3_600, rate, fewest);
        assert_eq!(pool.closed, 200);
    }
}

#[test]
fn closes_keep_to_the_rate() {
    let mut pool = SimulatedPool::new(&[1_000, 0]);
    pool.run(10, 20.0, fewest);
    assert!((190..=201).contains(&pool.closed), "{}", pool.closed);
    let mut slow = SimulatedPool::new(&[10, 0]);
    slow.run(20, 0.2, fewest);
    assert!((3..=4).contains(&slow.closed), "{}", slow.closed);
}

#[test]
fn difference_of_one_tunnel_is_balanced() {
    for tunnels in [&[3, 2][..], &[1, 0], &[4, 4, 3], &[0, 0], &[7]] {
        let mut pool = SimulatedPool::new(tunnels);
        pool.run(60, 100.0, fewest);
        assert_eq!(pool.closed, 0, "{tunnels:?}");
    }
}

#[test]
fn shares_are_proportional_to_weight() {
    let mut pool = SimulatedPool::new(&[400, 0]);
    pool.backends[1].weight = 3;
    pool.run(120, 100.0, fewest);
    assert_eq!(pool.tunnels(), [100, 300]);
    // The share of the second backend grows with its weight.
    let mut pool = SimulatedPool::new(&[400, 0]);
    pool.backends[0].weight = 9;
    pool.run(30, 100.0, fewest);
    assert_eq!(pool.tunnels(), [360, 40]);
    pool.backends[1].weight = 9;
    pool.run(60, 100.0, fewest);
    assert_eq!(pool.tunnels(), [200, 200]);
}

#[test]
fn rebalancing_pauses_if_clients_return_to_the_same_backend() {
    let mut pool = SimulatedPool::new(&[100, 0]);
    pool.run(600, 100.0, |_| 0);
    assert_eq!(pool.closed, 150, "{FUTILE} rounds");
    // A new backend restarts it.
    pool.backends.push(share(3, 0));
    pool.run(120, 100.0, fewest);
    assert!(pool.tunnels().iter().all(|&count| count <= 34), "{:?}", pool.tunnels());
}

#[test]
fn round_ends_although_the_backends_change() {
    let mut pool = SimulatedPool::new(&[100, 0]);
    pool.run(5, 100.0, |_| 0);
    pool.backends.push(share(3, 0));
    pool.run(3_600, 100.0, |_| 0);
    assert_eq!(pool.closed, 50 + FUTILE as usize * 66);
    // The same during the closes: at 5 per second, 25 are left after 5 seconds.
    let mut pool = SimulatedPool::new(&[100, 0]);
    pool.run(5, 5.0, fewest);
    pool.backends.push(share(3, 0));
    pool.run(60, 5.0, fewest);
    let tunnels = pool.tunnels();
    assert!(tunnels.iter().all(|&count| count <= 34), "{tunnels:?}");
    assert!(pool.closed <= 90, "{}", pool.closed);
}

#[test]
fn flapping_backend_does_not_restart_rebalancing() {
    let mut pool = SimulatedPool::new(&[100, 0]);
    for turn in 0..400 {
        pool.down = (turn % 2 == 1).then_some(2);
        pool.run(8, 100.0, |_| 0);
    }
    assert!(pool.closed <= (FUTILE as usize + 1) * 50, "{}", pool.closed);
}

#[test]
fn backend_in_slow_start_keeps_its_tunnels() {
    let mut pool = SimulatedPool::new(&[100, 100, 100]);
    pool.grow(30, 50.0, fewest);
    pool.run(60, 50.0, fewest);
    assert_eq!((pool.tunnels(), pool.closed), (vec![100; 3], 0));
}

#[test]
fn each_tunnel_moves_once_during_slow_start() {
    for seconds in [10, 60, 600] {
        let mut pool = SimulatedPool::new(&[150, 150, 0]);
        pool.grow(seconds, 50.0, fewest);
        pool.run(60, 50.0, fewest);
        assert_eq!(pool.tunnels(), [100; 3], "{seconds} s");
        assert!(pool.closed <= 110, "{seconds} s: {}", pool.closed);
    }
    // Clients that return to the same backends are closed a few times only.
    let mut pool = SimulatedPool::new(&[150, 150, 0]);
    for _ in 0..20 {
        let least =
            |backends: &[BackendShare]| usize::from(backends[1].tunnels < backends[0].tunnels);
        pool.grow(30, 50.0, least);
        pool.run(60, 50.0, least);
    }
    assert!(pool.closed <= 100 * (FUTILE as usize + 1), "{}", pool.closed);
}

#[test]
fn slow_rate_counts_as_progress() {
    let mut pool = SimulatedPool::new(&[10, 0]);
    pool.run(600, 1.0 / 60.0, fewest);
    assert_eq!(pool.tunnels(), [5, 5]);
}
