{{/* Name of everything that is installed. */}}
{{- define "trainyard.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "trainyard" $name) -}}
{{- $name = printf "%s-trainyard" $name -}}
{{- end -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that select the operator's Pods; they never change. */}}
{{- define "trainyard.selectorLabels" -}}
app.kubernetes.io/name: trainyard
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of every object. */}}
{{- define "trainyard.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "trainyard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Reference of an image: (dict "image" .Values.image.x "chart" .Chart). */}}
{{- define "trainyard.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the operator may do in a namespace whose runs it works on. Nothing here reads a Secret, a ConfigMap, a log or a token. */}}
{{- define "trainyard.operatorRules" -}}
- apiGroups: [trainyard.dev]
  resources: [pipelines]
  verbs: [get, list, watch]
- apiGroups: [trainyard.dev]
  resources: [pipelineruns]
  verbs: [get, list, watch, create, patch, delete] # create: what triggers start; patch: the label of finished ones, and the end of those that are replaced; delete: their ttl
- apiGroups: [trainyard.dev]
  resources: [trainingjobs] # create: one a training stage of a run; patch also: suspend of those; delete also: those of stopped runs
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [trainyard.dev]
  resources: [pipelines/status, pipelineruns/status, trainingjobs/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods] # one a stage, one a rank; never changed after its creation
  verbs: [get, list, watch, create, delete, deletecollection]
- apiGroups: [""]
  resources: [services] # one a training job: the host names of its ranks; it goes with the job
  verbs: [get, create]
{{- if ne .Values.gangScheduler.kind "None" }}
- apiGroups: [scheduling.x-k8s.io, scheduling.volcano.sh]
  resources: [podgroups] # one an attempt of a training job, for the scheduler that places its Pods together; it goes with the job
  verbs: [create]
{{- end }}
- apiGroups: [apps]
  resources: [controllerrevisions] # the frozen Pipeline of a run
  verbs: [get, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
