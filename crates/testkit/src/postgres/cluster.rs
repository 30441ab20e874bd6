//! Starts a private Postgres cluster and sees to it that it goes.
//!
//! Postgres refuses to run as root, so as root its processes become `postgres` or `nobody`. The data
//! lives in memory where there is enough of it. Invariant: the directory's path stays short, because
//! a Unix socket's path may have 107 bytes.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use nix::unistd::{Uid, User};

use crate::programs;
use crate::watchdog::Watchdog;

/// A new cluster has 40 MB, each database 8 MB, and containers often give shared memory 64 MB only.
const ROOM_BYTES: u64 = 1024 * 1024 * 1024;

/// For a machine that is busy with many builds; a start takes 50 ms on an idle one.
const START_WITHIN: Duration = Duration::from_secs(60);

const PREFIX: &str = "shoal-pg-";

/// $1 is the data directory, $2 the directory to remove. QUIT is Postgres' immediate shutdown.
const CLEAN_UP: &str = r#"
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -QUIT "$pid" 2>/dev/null
  n=0
  while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done
fi
rm -rf "$2"
"#;

#[derive(Debug)]
pub(super) struct Cluster {
    dir: PathBuf,
    _server: Child,
    _watchdog: Watchdog,
}

impl Cluster {
    /// The error completes the sentence "this test needs Postgres and ..".
    pub(super) fn start() -> Result<Self, String> {
        let (initdb, postgres) =
            binaries().ok_or("found no initdb and postgres on this machine")?;
        let dir = make_directory().map_err(|error| format!("cannot make a directory: {error}"))?;
        let data = dir.join("data");
        let paths = (data.display().to_string(), dir.display().to_string());
        let watchdog = Watchdog::guard(CLEAN_UP, &[&paths.0, &paths.1])
            .map_err(|error| format!("cannot start /bin/sh: {error}"))?;

        let output = as_user(&initdb, &dir)?
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .map_err(|error| format!("cannot run {}: {error}", initdb.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} failed: {}", initdb.display(), said.trim()));
        }

        let log = dir.join("log");
        let log_file =
            File::create(&log).map_err(|error| format!("cannot write a log: {error}"))?;
        let mut server = as_user(&postgres, &dir)?
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&dir)
            .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
            .stderr(log_file)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", postgres.display()))?;
        wait_until_ready(&mut server, &data)
            .map_err(|why| format!("{why}: {}", fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self { dir, _server: server, _watchdog: watchdog })
    }

    pub(super) fn url(&self, database: &str) -> String {
        let socket = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{database}")
    }
}

const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "shared_buffers=16MB",
    // Files of its own directory, so that nothing is left in shared memory after a kill.
    "dynamic_shared_memory_type=mmap",
];

fn binaries() -> Option<(PathBuf, PathBuf)> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("PGBIN").map(PathBuf::from).into_iter().collect();
    places.extend(programs::versions("/usr/lib/postgresql", "bin"));
    places.extend(programs::versions("/Applications/Postgres.app/Contents/Versions", "bin"));
    places.extend(["/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from));
    let initdb = programs::find("initdb", &places)?;
    // Through its links, so that both are of one version and the server finds its library.
    let initdb = fs::canonicalize(initdb).ok()?;
    let postgres = initdb.with_file_name("postgres");
    postgres.is_file().then_some((initdb, postgres))
}

fn make_directory() -> std::io::Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let room = statvfs(shm).map_or(0, |fs| room_bytes(&fs));
    let base = if room >= ROOM_BYTES { shm } else { Path::new("/tmp") };
    sweep(base);
    let dir = base.join(format!("{PREFIX}{}", std::process::id()));
    // Of an earlier process with this id, or there is nothing.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    if let Some(user) = user() {
        chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    Ok(dir)
}

#[expect(clippy::useless_conversion, reason = "the counts are 32 bits wide on macOS")]
fn room_bytes(fs: &nix::sys::statvfs::Statvfs) -> u64 {
    u64::from(fs.blocks_available()).saturating_mul(u64::from(fs.fragment_size()))
}

/// Removes what a process left whose watchdog was killed too. Only where /proc tells who lives.
fn sweep(base: &Path) {
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        let server = fs::read_to_string(entry.path().join("data/postmaster.pid"));
        let server = server.ok().and_then(|text| text.lines().next()?.parse::<u32>().ok());
        let lives = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
        if pid.is_some_and(|pid| !lives(pid)) && !server.is_some_and(lives) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Who Postgres runs as, when this process is root.
fn user() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten())
}

fn as_user(program: &Path, dir: &Path) -> Result<Command, String> {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    match user() {
        Some(user) => {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        None if Uid::effective().is_root() => {
            return Err("it refuses to run as root, and there is no user postgres or nobody".into());
        }
        None => {}
    }
    Ok(command)
}

/// Line 8 of its pid file is the server's own word that it takes connections.
fn wait_until_ready(server: &mut Child, data: &Path) -> Result<(), String> {
    let end = Instant::now() + START_WITHIN;
    loop {
        let said = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        if said.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
            return Ok(());
        }
        if let Ok(Some(status)) = server.try_wait() {
            return Err(format!("the server ended at once ({status})"));
        }
        if Instant::now() > end {
            return Err(format!("the server was not ready within {START_WITHIN:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
