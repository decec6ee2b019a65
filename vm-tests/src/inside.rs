// SPDX-License-Identifier: Apache-2.0
//! Runs programs inside a Debian tree, in a mount namespace of their own: whatever was mounted for them is gone
//! with them, however they end. Needs `root`, as file systems keep the owners of files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sheepfold_tests::process::Run;

/// A program about to run inside a tree.
#[derive(Debug)]
pub struct Inside {
    tree: PathBuf,
    mounts: Vec<[PathBuf; 2]>,
    overlay: Option<PathBuf>,
}

impl Inside {
    /// In `tree`, which is changed by what runs in it.
    pub fn of(tree: &Path) -> Self {
        Self {
            tree: tree.to_path_buf(),
            mounts: Vec::new(),
            overlay: None,
        }
    }

    /// What runs changes `layer` and not the tree: files go to `layer/files`.
    #[must_use]
    pub fn over(mut self, layer: &Path) -> Self {
        self.overlay = Some(layer.to_path_buf());
        self
    }

    /// Shows the directory `outside` as `inside`, which exists in the tree.
    #[must_use]
    pub fn with(mut self, outside: &Path, inside: &str) -> Self {
        self.mounts.push([outside.to_path_buf(), inside.into()]);
        self
    }

    /// The program, which starts in `/mnt`. It ends when the thread that started it does.
    pub fn run<S: AsRef<str>>(self, argv: impl IntoIterator<Item = S>) -> Run {
        let overlay = self.overlay.unwrap_or_default();
        let mut run = Run::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "-m",
                "sh",
                "-euc",
                ENTER,
                "sh",
            ])
            .arg(self.tree)
            .arg(overlay)
            .arg(self.mounts.len().to_string());
        for [outside, inside] in self.mounts {
            run = run.arg(outside).arg(inside);
        }
        argv.into_iter()
            .fold(run, |run, word| run.arg(word.as_ref()))
            .deadline(DEADLINE)
    }
}

/// `TREE LAYER COUNT (OUTSIDE INSIDE)* PROGRAM ARG*`.
const ENTER: &str = r#"
tree=$1 layer=$2 count=$3
shift 3
if [ -n "$layer" ]; then
    mkdir -p "$layer/files" "$layer/work" "$layer/merged"
    mount -t overlay overlay -o "lowerdir=$tree,upperdir=$layer/files,workdir=$layer/work" "$layer/merged"
    tree=$layer/merged
fi
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
# cryptsetup's locks go by the UUID of a volume, and each story's volume has the same.
mkdir -p "$tree/run/cryptsetup"
mount -t tmpfs -o mode=0700 tmpfs "$tree/run/cryptsetup"
while [ "$count" -gt 0 ]; do
    mount --bind "$1" "$tree$2"
    shift 2
    count=$((count - 1))
done
exec chroot "$tree" env -C /mnt LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"#;

/// dracut or mkfs on a machine that is busy with something else.
const DEADLINE: Duration = Duration::from_secs(1200);
