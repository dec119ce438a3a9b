//! How many CPUs this process may use: what `--workers auto` becomes. Called when a configuration is loaded.
//! Reads the scheduler's affinity mask and the CPU quota of the control group (v2 and v1), and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The CPUs that this process may use: the affinity mask, cut down to the control group's quota rounded up
/// (a quota of 1.5 CPUs is 2 workers, so that none of it is left over). At least 1.
pub fn available() -> usize {
    let quota = quota(Path::new("/")).unwrap_or(usize::MAX);
    affinity().min(quota).max(1)
}

fn affinity() -> usize {
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count())
            .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
            .count(),
        // EINVAL on a host with more CPUs than the mask of 1024 has bits.
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The CPU quota of this process's control group and of every group above it, in CPUs, rounded up; `None` if there
/// is none. `root` is `/`, or a folder that looks like it: `proc/self/cgroup`, `proc/self/mountinfo` and the mount
/// points that those name. See cgroups(7) and the kernel's cgroup-v2 `cpu.max`.
pub fn quota(root: &Path) -> Option<usize> {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::read).collect();
    memberships
        .lines()
        .filter_map(|line| quota_of(root, line, &mounts))
        .min()
}

/// One line of mountinfo that is a control group hierarchy with a CPU controller, or v2's single hierarchy.
struct Mount<'a> {
    /// The group that is seen at the mount point; `/` unless a container shows only a part.
    group: &'a str,
    point: &'a str,
    v2: bool,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /group /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu`, see proc_pid_mountinfo(5).
    fn read(line: &'a str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (group, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let v2 = match kind.next()? {
            "cgroup2" => true,
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "cpu") => false,
            _ => return None,
        };
        Some(Mount { group, point, v2 })
    }
}

/// The quota that one line of /proc/self/cgroup leads to: `0::/group` (v2) or `4:cpu,cpuacct:/group` (v1).
fn quota_of(root: &Path, membership: &str, mounts: &[Mount<'_>]) -> Option<usize> {
    let mut fields = membership.splitn(3, ':');
    let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    let v2 = controllers.is_empty();
    if !v2 && !controllers.split(',').any(|controller| controller == "cpu") {
        return None;
    }
    let mount = mounts.iter().find(|mount| mount.v2 == v2)?;
    let top = root.join(mount.point.trim_start_matches('/'));
    let folder = match group.strip_prefix(mount.group.trim_end_matches('/')) {
        Some(below) if (below.is_empty() || below.starts_with('/')) && !below.contains("..") => {
            top.join(below.trim_start_matches('/'))
        }
        // The group lies outside of what this container sees: its own top is what counts.
        _ => top.clone(),
    };
    folder
        .ancestors()
        .take_while(|above| above.starts_with(&top))
        .filter_map(|above| read_quota(above, v2))
        .min()
}

fn read_quota(folder: &Path, v2: bool) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(PathBuf::from(folder).join(name)).ok();
    let (quota, period) = if v2 {
        let line = read("cpu.max")?;
        let (quota, period) = line.trim().split_once(' ')?;
        (quota.to_owned(), period.to_owned())
    } else {
        (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
    };
    // "max" (v2) and -1 (v1) mean no quota; neither is a u64.
    let (quota, period): (u64, u64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

    /// Lays a folder that looks like `/` and asks for its quota.
    fn quota_in(memberships: &str, mounts: &str, files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        let laid = [
            ("proc/self/cgroup", memberships),
            ("proc/self/mountinfo", mounts),
        ];
        for (name, text) in laid.iter().chain(files) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        quota(root.path())
    }

    #[test]
    fn v2_takes_the_smallest_quota_up_the_tree_rounded_up() {
        let group = "0::/system.slice/canvas-cluster.service\n";
        let leaf = "sys/fs/cgroup/system.slice/canvas-cluster.service/cpu.max";
        let slice = "sys/fs/cgroup/system.slice/cpu.max";
        assert_eq!(quota_in(group, V2, &[(leaf, "150000 100000\n")]), Some(2));
        assert_eq!(quota_in(group, V2, &[(leaf, "max 100000\n")]), None);
        assert_eq!(
            quota_in(
                group,
                V2,
                &[(leaf, "max 100000\n"), (slice, "300000 100000\n")]
            ),
            Some(3)
        );
        assert_eq!(
            quota_in(
                group,
                V2,
                &[(leaf, "400000 100000\n"), (slice, "100000 100000\n")]
            ),
            Some(1)
        );
        assert_eq!(quota_in(group, V2, &[(leaf, "1000 100000\n")]), Some(1));
        assert_eq!(quota_in(group, V2, &[(leaf, "nonsense\n")]), None);
    }

    #[test]
    fn a_container_sees_its_group_at_the_top() {
        let top = [("sys/fs/cgroup/cpu.max", "200000 100000\n")];
        assert_eq!(quota_in("0::/\n", V2, &top), Some(2));
        // Without a cgroup namespace the path is the host's, and the mount shows only our part of it.
        assert_eq!(quota_in("0::/docker/abc\n", V2, &top), Some(2));
        let bind = V2.replace(" / /sys", " /docker/abc /sys");
        assert_eq!(quota_in("0::/docker/abc\n", &bind, &top), Some(2));
        assert_eq!(quota_in("0::/../other\n", V2, &top), Some(2));
    }

    #[test]
    fn v1_reads_quota_and_period_of_the_cpu_controller() {
        let groups = "9:cpuset:/a\n2:cpu,cpuacct:/a\n0::/\n";
        let quota_file = "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us";
        let period = ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
        assert_eq!(
            quota_in(groups, V1, &[(quota_file, "250000\n"), period]),
            Some(3)
        );
        assert_eq!(quota_in(groups, V1, &[(quota_file, "-1\n"), period]), None);
        assert_eq!(quota_in(groups, V1, &[]), None);
    }

    #[test]
    fn this_host_has_a_cpu() {
        assert!((1..=affinity()).contains(&available()));
    }

    #[test]
    fn a_host_without_control_groups_has_no_quota() {
        assert_eq!(quota(Path::new("/nonexistent")), None);
    }
}
