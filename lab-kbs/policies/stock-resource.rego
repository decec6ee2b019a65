# How an unconfigured Trustee releases resources, in our own words; for compatibility tests
# (`--policy stock`). It refuses `sample` evidence and does not look at the verdict.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	evidence := input.submods.cpu0["ear.veraison.annotated-evidence"]
	not evidence.sample
}
