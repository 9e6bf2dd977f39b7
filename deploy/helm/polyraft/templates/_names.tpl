{{- /* The names that the templates have in common. */ -}}

{{- define "polyraft.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "polyraft.peers" -}}
{{- printf "%s-peers" (include "polyraft.name" .) -}}
{{- end -}}

{{- define "polyraft.selector" -}}
app.kubernetes.io/name: polyraft
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "polyraft.labels" -}}
{{ include "polyraft.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
