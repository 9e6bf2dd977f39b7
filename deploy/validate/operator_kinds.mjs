// Checks what belongs to operators, the kinds below, against the schemas of their definitions.
//
//     node operator_kinds.mjs OBJECTS.json
//
// Runs in a folder where both packages are installed. Fails on the first object that does not fit, and on
// a kind of these groups that is not listed.
import fs from "node:fs";
import { Certificate } from "@kubernetes-models/cert-manager/cert-manager.io/v1/Certificate";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const kinds = { Certificate, PrometheusRule, ServiceMonitor };

for (const object of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) {
  if (/^(monitoring\.coreos\.com|cert-manager\.io)\//.test(object.apiVersion)) {
    new kinds[object.kind](object).validate();
    console.log(`${object.kind} ${object.metadata.name}: fits`);
  }
}
