// Grafana's published types, as strict as JSON allows: check.sh appends each dashboard as a literal.
import type {
    AnnotationQuery, Dashboard, FieldConfig, FieldConfigSource, Panel,
} from "@grafana/schema";
import type { PrometheusDataQuery } from "@grafana/schema/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
    FieldConfig as GraphField, Options as GraphOptions,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has an enumeration's text where TypeScript wants its name.
type Json<T> =
    T extends string ? `${T}`
    : T extends number | boolean | null | undefined ? T
    : T extends Array<infer U> ? Array<Json<U>>
    : T extends object ? { [K in keyof T]: Json<T[K]> }
    : T;

// A panel's own types in place of Grafana's `unknown`; nothing may be left out that all of ours have.
type PanelOf<Kind extends string, Options, Custom> =
    Required<Pick<Panel, "id" | "title" | "description" | "gridPos" | "datasource" | "links">> & {
        type: Kind;
        options: Options;
        targets: PrometheusDataQuery[];
        fieldConfig: Omit<FieldConfigSource, "defaults"> & {
            defaults: Required<Pick<FieldConfig, "unit" | "thresholds" | "color">> & Custom;
        };
    };
type AnyPanel =
    | PanelOf<"timeseries", GraphOptions, { custom: GraphField }>
    | PanelOf<"stat", StatOptions, {}>;

// What the Prometheus data source reads of an annotation beside the schema.
type Annotation = Omit<AnnotationQuery, "target"> & { target: PrometheusDataQuery; titleFormat?: string };

type CheckedDashboard = Json<
    Omit<Dashboard, "panels" | "annotations"> & { panels: AnyPanel[]; annotations: { list: Annotation[] } }
>;
