# Sheepfold attestation policy, stored as `default_cpu`. Constant text: what differs from cluster to
# cluster and from node to node is a reference value, so that a new image or machine changes data only.
#
# Values (AR4SI, draft-ietf-rats-ar4si section 2.3; 2..31 affirm, 32..95 warn, 96.. contraindicate):
#   instance-identity  2 the node is known    97 it is not    0 this evidence is not what names a node here
#   hardware           2 genuine and current  97 not shown
#   executables        3 an approved boot    33 not recognised
#   configuration      2 as approved, and still before the seal    36 not shown
# A node that has sealed its boot has configuration 36 and `sheepfold.phase` "sealed", which is as good as 2 but for
# the seal.
# SEV-SNP alone has no register that the seal could move: what it started can ask again. Put a TPM beside it.
#
# A reference value that is missing or has another type than described here matches nothing.
package policy

import rego.v1

trust_claims := {
	"instance-identity": instance_identity,
	"hardware": hardware,
	"executables": executables,
	"configuration": configuration,
}

# What the resource policy needs to know goes into the token.
extensions := array.concat(array.concat(about_evidence, about_node), array.concat(about_phase, about_reasons))

default about_evidence := []

about_evidence := [
	{"name": "sheepfold.tee", "key": -70002, "value": tee},
	{"name": "sheepfold.evidence", "key": -70003, "value": concat(" ", options.evidence)},
	{"name": "sheepfold.identity", "key": -70004, "value": options.identity},
] if {
	is_array(options.evidence)
	is_string(options.identity)
}

default about_node := []

about_node := [{"name": "sheepfold.node", "key": -70001, "value": node}] if node

default about_phase := []

about_phase := [{"name": "sheepfold.phase", "key": -70006, "value": phase}] if phase

# ---- What kind of evidence this is: exactly one, and none but these.

tees := {name |
	some name in ["tpm", "snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm"]
	input[name]
}

tee := name if {
	count(tees) == 1
	some name in tees
}

claims := input[tee]

# ---- Per cluster: {"evidence": ["tpm", "snp+tpm", ...], "identity": "ak" | "init-data", "pcrs"?: [...]}

options := query_reference_value("sheepfold_options")

# ---- Identity.

default instance_identity := 97

instance_identity := 2 if node

instance_identity := 0 if {
	tee != "tpm"
	options.identity == "ak"
}

node := ak_node if {
	tee == "tpm"
	options.identity == "ak"
}

# A TPM beside the primary evidence carries no init-data. The resource policy wants all names to agree.
node := ak_node if {
	tee == "tpm"
	options.identity == "init-data"
	input.init_data_claims == null
}

node := ak_node if {
	tee == "tpm"
	options.identity == "init-data"
	init_node == ak_node
}

node := init_node if {
	tee != "tpm"
	options.identity == "init-data"
}

# The node of an attestation key that was proved to live in a TPM. Two characters from inside the key
# choose the shard: `node_ak_xy` = {base64 of SubjectPublicKeyInfo: node}.
ak_node := name if {
	characters := substring(input.tpm.ak_public, 60, 2)
	shard := concat("", ["node_ak_", replace(replace(characters, "+", "-"), "/", "_")])
	name := query_reference_value(shard)[input.tpm.ak_public]
	is_string(name)
}

# The node of init-data that was issued to it: `node_init_xy` = {register: node}, where the register is the
# claim that binds init-data (PCR 8, HOST_DATA, MRCONFIGID) and xy its first two digits. The verifier has
# compared register and text only where a text was sent; the text's uuid must name the same node.
init_node := name if {
	shard := concat("", ["node_init_", substring(input.init_data, 0, 2)])
	name := query_reference_value(shard)[input.init_data]
	is_string(name)
	name == input.init_data_claims.uuid
}

# ---- Hardware.

default hardware := 97

# A TPM is as genuine as the enrolment that recorded its key.
hardware := 2 if {
	tee == "tpm"
	ak_node
}

# `snp_tcb_floors`: list of {"bootloader", "microcode", "snp", "tee"}; one of them must be met whole.
hardware := 2 if {
	some floor in list("snp_tcb_floors")
	every part in ["bootloader", "microcode", "snp", "tee"] {
		is_number(floor[part])
		tcb_level(concat("", ["reported_tcb_", part])) >= floor[part]
	}
}

# `tdx_tcb_status`: list of acceptable states, such as "UpToDate".
hardware := 2 if {
	tee in {"tdx", "az-tdx-vtpm"}
	claims.tcb_status in list("tdx_tcb_status")
	claims.collateral_expiration_status == "0"
}

# The plain report has numbers, the one from Azure has strings. Rego orders null before any number and
# strings after all of them, so nothing may be compared that is not a number.
tcb_level(name) := level if {
	tee == "snp"
	level := input.snp[name]
	is_number(level)
}

tcb_level(name) := to_number(input["az-snp-vtpm"][name]) if {
	tee == "az-snp-vtpm"
	is_string(input["az-snp-vtpm"][name])
}

# ---- Executables.

default executables := 33

executables := 3 if {
	tee == "tpm"
	some tuple in list("boot_tuples")
	booted(tuple)
}

executables := 3 if {
	tee == "snp"
	input.snp.measurement in list("snp_measurements")
}

executables := 3 if {
	tee == "tdx"
	some launch in list("tdx_launches")
	launched(launch)
}

# Azure's firmware is measured by the hardware, what it boots by its TPM: both must be known.
executables := 3 if {
	tee == "az-snp-vtpm"
	claims.measurement in list("az_snp_measurements")
	some tuple in list("boot_tuples")
	booted(tuple)
}

executables := 3 if {
	tee == "az-tdx-vtpm"
	claims.quote.body.mr_td in list("az_tdx_mr_tds")
	some tuple in list("boot_tuples")
	booted(tuple)
}

# ---- Configuration: nobody looks in from outside, and the node has not left its initramfs.

default configuration := 36

configuration := 2 if phase == "initramfs"

configuration := 2 if {
	tee == "snp"
	closed
}

closed if tee == "tpm"

closed if {
	tee == "snp"
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

closed if {
	tee in {"tdx", "az-tdx-vtpm"}
	claims.td_attributes.debug == false
}

closed if {
	tee == "az-snp-vtpm"
	claims.policy_debug_allowed == "false"
	claims.policy_migrate_ma == "false"
}

# ---- Phase. A register moves when the node leaves its initramfs. What it shows afterwards cannot be computed
# here: `seals` = [{"before": hex, "after": hex}].

phase := "initramfs" if {
	closed
	some boot in boots
	boot.now == boot.inside
} else := "sealed" if {
	closed
	some boot in boots
	some seal in list("seals")
	seal.before == boot.inside
	seal.after == boot.now
}

# PCR 11 it is. Where the boot loader measures nothing there (GRUB), it is untouched until then; a unified kernel
# image names the value it has inside the initramfs.
boots contains {"inside": object.get(tuple, "pcr11", untouched_pcr), "now": pcrs.pcr11} if {
	some tuple in list("boot_tuples")
	booted(tuple)
}

# RTMR 3 plays the part of PCR 11.
boots contains {"inside": object.get(launch, "rtmr_3", untouched_rtmr), "now": input.tdx.quote.body.rtmr_3} if {
	some launch in list("tdx_launches")
	launched(launch)
}

# ---- Boots: whole tuples, never a mixture of two. `boot_tuples` = [{"pcr04": hex, "pcr07": hex, ...}].

# Everything a tuple names, PCR 11 apart, is as it says. It names nothing but PCRs, and all it must.
booted(tuple) if {
	is_object(tuple)
	count(required_pcrs - object.keys(tuple)) == 0
	every name, value in object.remove(tuple, ["pcr11"]) {
		regex.match(`^pcr([01][0-9]|2[0-3])$`, name)
		pcrs[name] == value
	}
}

pcrs := input.tpm if tee == "tpm"

pcrs := claims.tpm if startswith(tee, "az-")

default required_pcrs := {"pcr04", "pcr07", "pcr14"}

required_pcrs := names if {
	is_array(options.pcrs)
	"pcr04" in options.pcrs
	names := {name | some name in options.pcrs}
}

# `tdx_launches` = [{"mr_td": hex, "rtmr_1": hex, "rtmr_2": hex, ...}].
launched(launch) if {
	is_object(launch)
	count({"mr_td", "rtmr_1", "rtmr_2"} - object.keys(launch)) == 0
	every name, value in object.remove(launch, ["rtmr_3"]) {
		input.tdx.quote.body[name] == value
	}
}

# ---- For people: why these claims are no better. Nothing is decided by it.

default about_reasons := []

about_reasons := [{"name": "sheepfold.reasons", "key": -70005, "value": concat("; ", reasons)}] if count(reasons) > 0

reasons contains sprintf("%s is %v, a floor is %v", [part, level, floor[part]]) if {
	hardware > 31
	some floor in list("snp_tcb_floors")
	is_number(floor[part])
	level := tcb_level(concat("", ["reported_tcb_", part]))
	level < floor[part]
}

reasons contains concat(" ", ["the TCB status is", claims.tcb_status]) if {
	hardware > 31
	is_string(claims.tcb_status)
}

reasons contains concat(" ", [name, "is set"]) if {
	some name in ["policy_debug_allowed", "policy_migrate_ma"]
	claims[name] in {true, "true"}
}

reasons contains "the debug attribute is set" if claims.td_attributes.debug == true

reasons contains "this boot is sealed, the disk's secret comes again with the next one" if phase == "sealed"

# ---- Helpers.

list(name) := value if {
	value := query_reference_value(name)
	is_array(value)
}

untouched_pcr := "0000000000000000000000000000000000000000000000000000000000000000"

untouched_rtmr := concat("", [untouched_pcr, substring(untouched_pcr, 0, 32)])
