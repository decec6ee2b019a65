# The laboratory's attestation policy, in force until an administrator uploads another `default_cpu`.
#
# A node is trusted (executables = 3) only if both hold:
#   * its attestation key is registered: the reference value node_ak_<shard> maps the key to a node id;
#   * its PCRs match one whole tuple of the reference value boot_tuples, such as
#     [{"pcr04": "…", "pcr07": "…", "pcr14": "…"}]. A PCR that a tuple does not name is not compared.
#     Tuples, never one list per PCR: lists would also accept mixtures of two images.
# The node id goes into the token, where the resource policy finds it.
package policy

import rego.v1

default executables := 33

executables := 3 if {
	node
	tuples := query_reference_value("boot_tuples")
	is_array(tuples) # absent values are null, and iterating over null is an error, not a mismatch
	some tuple in tuples
	matches(tuple)
}

# A tuple that names nothing, or anything but PCRs, matches no node.
matches(tuple) if {
	is_object(tuple)
	count(tuple) > 0
	every name, value in tuple {
		startswith(name, "pcr")
		input.tpm[name] == value
	}
}

# Two characters from inside the key choose the shard, so that each reference value stays small.
shard := concat("", ["node_ak_", replace(replace(substring(input.tpm.ak_public, 60, 2), "+", "-"), "/", "_")])

node := query_reference_value(shard)[input.tpm.ak_public]

trust_claims := {"executables": executables, "hardware": 0, "configuration": 0}

extensions := [{"name": "sheepfold.node", "key": -70001, "value": node}] if node
