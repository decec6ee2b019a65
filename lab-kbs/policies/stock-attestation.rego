# How an unconfigured Trustee judges `tpm` and `sample` evidence, in our own words; for compatibility
# tests (`--policy stock`). Any TPM evidence counts as good hardware.
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

executables := 3 if {
	input.tpm.pcr11 in query_reference_value("tpm_pcr11")
	input.tpm.ak_public in query_reference_value("trusted_aks")
}

executables := 3 if input.sample.launch_digest in query_reference_value("launch_digest")

hardware := 2 if input.tpm

hardware := 2 if {
	input.sample.svn in query_reference_value("svn")
	input.sample.platform_version.major == query_reference_value("major_version")
	input.sample.platform_version.minor >= query_reference_value("minimum_minor_version")
}

configuration := 0 if input.tpm

configuration := 2 if input.sample.debug == false

trust_claims := {"executables": executables, "hardware": hardware, "configuration": configuration}

extensions := [{"name": "ear.trustee.identifiers", "key": -70000, "value": {"validated": {}}}]
