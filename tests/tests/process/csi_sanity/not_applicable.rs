//! The specs of csi-sanity that an inline driver without a controller service
//! has no answer to, each by its name and with the reason. docs/csi.md has them
//! by group.

/// Specs that do not apply, for one reason.
pub(super) struct NotApplicable {
    /// Why.
    pub(super) why: &'static str,
    /// How it shows.
    pub(super) seen: Seen,
    /// Names of containers, joined by a blank, with those of their specs.
    pub(super) groups: &'static [(&'static str, &'static [&'static str])],
}

/// What becomes of a spec that is run all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It fails, since the driver does not have that call.
    Unimplemented,
    /// csi-sanity leaves it out with these words, since the driver does not claim to have that call.
    Skipped(&'static str),
    /// csi-sanity never runs it.
    Pending,
}

pub(super) const NOT_APPLICABLE: &[NotApplicable] = &[
    NotApplicable {
        why: "There is no controller service: kubelet makes an inline volume by publishing it, so nothing is created, attached, listed, changed or copied",
        seen: Seen::Unimplemented,
        groups: &[
            (
                "Controller Service [Controller Server] ControllerGetCapabilities",
                &["should return appropriate capabilities"],
            ),
            (
                "Controller Service [Controller Server] ControllerPublishVolume",
                &[
                    "should fail when no node id is provided",
                    "should fail when no volume capability is provided",
                    "should fail when no volume id is provided",
                    "should fail when publishing more volumes than the node max attach limit",
                    "should fail when the node does not exist",
                    "should fail when the volume does not exist",
                    "should fail when the volume is already published but is incompatible",
                ],
            ),
            (
                "Controller Service [Controller Server] ControllerUnpublishVolume",
                &["should fail when no volume id is provided"],
            ),
            (
                "Controller Service [Controller Server] CreateVolume",
                &[
                    "should create volume from an existing source snapshot",
                    "should create volume from an existing source volume",
                    "should create volume with a volume attribute class",
                    "should fail when no name is provided",
                    "should fail when no volume capabilities are provided",
                    "should fail when requesting to create a volume with already existing name and different capacity",
                    "should fail when the volume source snapshot is not found",
                    "should fail when the volume source volume is not found",
                    "should not create volume with an invalid volume attribute class",
                    "should not fail when creating volume with maximum-length name",
                    "should not fail when requesting to create a volume with already existing name and same capacity",
                    "should return appropriate values SingleNodeWriter NoCapacity",
                    "should return appropriate values SingleNodeWriter WithCapacity 1Gi",
                ],
            ),
            (
                "Controller Service [Controller Server] DeleteVolume",
                &[
                    "should fail when no volume id is provided",
                    "should return appropriate values (no optional values added)",
                    "should succeed when an invalid volume id is used",
                ],
            ),
            (
                "Controller Service [Controller Server] GetCapacity",
                &["should return capacity (no optional values added)"],
            ),
            (
                "Controller Service [Controller Server] ListVolumes",
                &[
                    "check the presence of new volumes and absence of deleted ones in the volume list",
                    "should fail when an invalid starting_token is passed",
                    "should return appropriate values (no optional values added)",
                ],
            ),
            (
                "Controller Service [Controller Server] ValidateVolumeCapabilities",
                &[
                    "should fail when no volume capabilities are provided",
                    "should fail when no volume id is provided",
                    "should fail when the requested volume does not exist",
                    "should return appropriate values (no optional values added)",
                ],
            ),
            (
                "Controller Service [Controller Server] volume lifecycle",
                &["should be idempotent", "should work"],
            ),
            (
                "ControllerGetVolumeHealth [Controller Server]",
                &[
                    "should fail when no volume id is provided",
                    "should return health for a valid volume",
                ],
            ),
            (
                "ControllerListVolumeHealth [Controller Server]",
                &["should return appropriate response"],
            ),
            (
                "CreateSnapshot [Controller Server]",
                &[
                    "should fail when no name is provided",
                    "should fail when no source volume id is provided",
                    "should fail when requesting to create a snapshot with already existing name and different source volume ID",
                    "should succeed when creating a snapshot with accessibility requirements",
                    "should succeed when creating snapshot with maximum-length name",
                    "should succeed when requesting to create a snapshot with already existing name and same source volume ID",
                ],
            ),
            (
                "DeleteSnapshot [Controller Server]",
                &[
                    "should fail when no snapshot id is provided",
                    "should return appropriate values (no optional values added)",
                    "should succeed when an invalid snapshot id is used",
                ],
            ),
            (
                "ExpandVolume [Controller Server]",
                &[
                    "should fail if no capacity range is given",
                    "should fail if no volume id is given",
                    "should work",
                ],
            ),
            (
                "GetSnapshot [Controller Server]",
                &[
                    "should return an error",
                    "should return an error when the specified snapshot id does not exist",
                    "should return snapshot that match the specified snapshot id",
                ],
            ),
            (
                "ListSnapshots [Controller Server]",
                &[
                    "check the presence of new snapshots in the snapshot list",
                    "should return appropriate values (no optional values added)",
                    "should return empty when the specified snapshot id does not exist",
                    "should return empty when the specified source volume id does not exist",
                    "should return next token when a limited number of entries are requested",
                    "should return snapshots that match the specified snapshot id",
                    "should return snapshots that match the specified source volume id",
                ],
            ),
            (
                "ModifyVolume [Controller Server]",
                &[
                    "should fail if no volume id is given",
                    "should fail if specified mutable parameters are not supported by the volume",
                    "should fail if volume does not exist",
                    "should fail to modify a volume created with a volume attribute class if new mutable parameters are not supported by volume",
                    "should modify a volume created with a volume attribute class",
                    "should modify a volume created without a volume attribute class",
                ],
            ),
        ],
    },
    NotApplicable {
        why: "It is switched off upstream; there is no controller service either",
        seen: Seen::Pending,
        groups: &[(
            "Controller Service [Controller Server] ListVolumes",
            &[
                "pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted",
            ],
        )],
    },
    NotApplicable {
        why: "There is no group controller service: snapshots of credentials are not made",
        seen: Seen::Skipped("GroupControllerService not supported"),
        groups: &[
            (
                "GroupController Service [GroupController Server] GroupControllerGetCapabilities",
                &["should return appropriate capabilities"],
            ),
            (
                "GroupController Service [GroupController VolumeGroupSnapshots] CreateVolumeGroupSnapshot",
                &["should fail when no name is provided"],
            ),
            (
                "GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot",
                &[
                    "should fail when no volume id is provided",
                    "should succeed when an invalid volume id is used",
                ],
            ),
            (
                "GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot",
                &[
                    "should fail when an invalid volume id is used",
                    "should fail when no volume id is provided",
                ],
            ),
        ],
    },
    NotApplicable {
        why: "An inline volume has one pod, so access modes mean nothing",
        seen: Seen::Skipped("Service does not have single node multi writer capability"),
        groups: &[(
            "Node Service NodePublishVolume with single node multi writer capability",
            &[
                "should fail when volume with single node single writer access mode is already mounted at a different target path",
            ],
        )],
    },
    NotApplicable {
        why: "There is nothing to prepare for several pods: publishing mounts",
        seen: Seen::Skipped("NodeStageVolume not supported"),
        groups: &[(
            "Node Service NodeStageVolume",
            &[
                "should fail when no staging target path is provided",
                "should fail when no volume capability is provided",
                "should fail when no volume id is provided",
            ],
        )],
    },
    NotApplicable {
        why: "There is nothing to prepare for several pods: publishing mounts",
        seen: Seen::Skipped("NodeUnstageVolume not supported"),
        groups: &[(
            "Node Service NodeUnstageVolume",
            &[
                "should fail when no staging target path is provided",
                "should fail when no volume id is provided",
            ],
        )],
    },
    NotApplicable {
        why: "There is nothing to watch: the driver chooses the size",
        seen: Seen::Skipped("NodeGetVolume not supported"),
        groups: &[(
            "Node Service NodeGetVolumeStats",
            &[
                "should fail when no volume id is provided",
                "should fail when no volume path is provided",
                "should fail when volume does not exist on the specified path",
                "should fail when volume is not found",
            ],
        )],
    },
    NotApplicable {
        why: "The driver chooses the size, and lets it grow when it is upgraded",
        seen: Seen::Skipped("NodeExpandVolume not supported"),
        groups: &[(
            "Node Service NodeExpandVolume",
            &[
                "should fail when no volume id is provided",
                "should fail when no volume path is provided",
                "should fail when volume is not found",
                "should work if node-expand is called after node-publish",
            ],
        )],
    },
    NotApplicable {
        why: "What is wrong is told in the status of the CredentialBinding",
        seen: Seen::Skipped("NodeGetVolumeHealth not supported"),
        groups: &[(
            "Node Service NodeGetVolumeHealth",
            &[
                "should fail when no volume id is provided",
                "should return health for a valid volume",
            ],
        )],
    },
    NotApplicable {
        why: "What is wrong is told in the status of the CredentialBinding",
        seen: Seen::Skipped("NodeGetStorageHealth not supported"),
        groups: &[(
            "Node Service NodeGetStorageHealth",
            &["should return appropriate response"],
        )],
    },
    NotApplicable {
        why: "It publishes what a controller service made, without kubelet's pod info, which is refused; `csi_tests.rs` has the same with it",
        seen: Seen::Skipped("Controller Service not provided: CreateVolume not supported"),
        groups: &[("Node Service", &["should be idempotent", "should work"])],
    },
    NotApplicable {
        why: "It publishes what a controller service made, without kubelet's pod info, which is refused; `csi_tests.rs` has the same with it",
        seen: Seen::Unimplemented,
        groups: &[(
            "Node Service NodeUnpublishVolume",
            &["should remove target path"],
        )],
    },
];
