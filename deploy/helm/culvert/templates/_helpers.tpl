{{- define "culvert.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "culvert.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "culvert.labels" -}}
{{ include "culvert.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "culvert.ports" -}}
{{- if .count }}{{ .first }}-{{ add .first .count -1 }}{{ else }}off{{ end }}
{{- end }}

{{- /* Servers that begin on their own would each be a cluster of its own. */ -}}
{{- define "culvert.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.cluster.joinTokenSecret) (not .Values.etcd.urls) }}
{{- fail "replicas: servers beyond the first need cluster.joinTokenSecret or etcd.urls. Install with replicas=1 first; the notes say how to go on" }}
{{- end }}
{{- if and .Values.acme.email .Values.tls.secret }}
{{- fail "acme.email and tls.secret exclude each other" }}
{{- end }}
{{- end }}
