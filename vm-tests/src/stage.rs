// SPDX-License-Identifier: Apache-2.0
//! Where most stories begin: a node that was set up earlier and is switched off, its root encrypted and bound, its
//! boot approved. Without a first boot: the volume is encrypted and bound on the host, by the same programs.

use std::fs;

use anyhow::Result;
use sheepfold_operator::ignition::{Filesystem, Format, Fragment, Integrity, SpecVersion, Volume};

use crate::chain::{Chain, Kind, command_line};
use crate::disk;
use crate::image::{Image, Recipe};
use crate::node::{Binding, Node};
use crate::site::Site;

/// A site with an image and its boot chain, approved under the name [`APPROVED`].
pub struct Stage {
    /// The world around.
    pub site: Site,
    /// What the nodes run.
    pub image: Image,
    /// How they boot.
    pub chain: Chain,
}

impl Stage {
    /// Builds it.
    ///
    /// # Errors
    /// A part is missing or fails; the message says which.
    pub fn set(story: &str, kind: Kind) -> Result<Self> {
        let site = Site::open(story)?;
        let recipe = Recipe::node(&site);
        Self::with_image(site, &recipe, kind)
    }

    /// As [`Stage::set`], with an image of the caller's choice.
    ///
    /// # Errors
    /// As [`Stage::set`].
    pub fn with_image(site: Site, recipe: &Recipe, kind: Kind) -> Result<Self> {
        Self::with_command_line(site, recipe, kind, &command_line())
    }

    /// As [`Stage::with_image`], with another kernel command line.
    ///
    /// # Errors
    /// As [`Stage::set`].
    pub fn with_command_line(
        site: Site,
        recipe: &Recipe,
        kind: Kind,
        command_line: &str,
    ) -> Result<Self> {
        let image = recipe.build(&site)?;
        let chain = Chain::build(&site.dir().join("chain"), kind, &image, command_line)?;
        Ok(Self { site, image, chain })
    }

    /// A node that has never booted: enrolled and provisioned, nothing on its disk encrypted. Its Ignition config, for
    /// QEMU's fw_cfg, is `config.ign` in its directory.
    ///
    /// # Errors
    /// Somebody refuses, or a tool fails.
    pub fn new_node(&mut self, name: &str) -> Result<Node> {
        let mut factory = Node::manufacture(&mut self.site, name)?;
        self.site.approve(APPROVED, &self.chain)?;
        // For the search at the end only: the machine itself will be given it by the KBS.
        factory.as_if_booted(&self.chain)?;
        factory.learn_secret(&mut self.site)?;
        let node = factory.leave()?;
        fs::write(node.dir().join("config.ign"), ignition()?)?;
        disk::unencrypted(node.dir(), &self.image, &self.chain)?;
        Ok(node)
    }

    /// A node whose root is encrypted.
    ///
    /// # Errors
    /// Somebody refuses, or a tool fails.
    pub fn encrypted_node(&mut self, name: &str, binding: Binding) -> Result<Node> {
        let mut factory = Node::manufacture(&mut self.site, name)?;
        self.site.approve(APPROVED, &self.chain)?;
        factory.as_if_booted(&self.chain)?;
        disk::encrypt(factory.dir(), &self.image)?;
        let (volume, key) = (
            factory.dir().join("root.luks"),
            factory.dir().join("first-key"),
        );
        factory.bind(&mut self.site, &volume, &key, binding)?;
        let node = factory.leave()?;
        disk::assemble(node.dir(), &self.chain)?;
        Ok(node)
    }
}

/// QEMU's arguments for a machine whose platform has an Ignition config.
pub const CONFIG: [&str; 2] = ["-fw_cfg", "name=opt/com.coreos/config,file=config.ign"];
/// What a system does when its first boot is over, for the harness's GRUB: no boot is the first any more.
pub const NEVER_AGAIN: &str = "mkdir -p /esp && mount /dev/disk/by-partlabel/ESP /esp && rm -f /esp/ignition.firstboot && umount /esp";
/// The name under which the administrator approves the boot.
pub const APPROVED: &str = "debian";

/// What Debian's Ignition 2.14 is told: our fragment alone.
///
/// # Errors
/// The operator refuses.
pub fn ignition() -> Result<String> {
    ignition_with(Integrity::None)
}

/// The same, with sectors that are authenticated.
///
/// # Errors
/// The operator refuses.
pub fn ignition_with(integrity: Integrity) -> Result<String> {
    let volume = Volume {
        integrity,
        label: Some("luks-root".parse()?),
        uuid: Some(disk::LUKS_UUID.parse()?),
        filesystem: Some(Filesystem {
            format: Format::Ext4,
            label: Some("root".parse()?),
            path: None,
        }),
        ..Volume::new("root".parse()?, "/dev/disk/by-partlabel/root".parse()?)
    };
    let volumes = vec![volume];
    Ok(Fragment { volumes }.render(SpecVersion::V3_3)?)
}
