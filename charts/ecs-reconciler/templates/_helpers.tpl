{{- define "ecs-reconciler.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ecs-reconciler.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "ecs-reconciler.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ecs-reconciler.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ecs-reconciler.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ecs-reconciler.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: daemon
{{- end }}

{{- /* Labels of an object. Without the component: jobs and tests must not look like daemons to a selector. */}}
{{- define "ecs-reconciler.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "ecs-reconciler.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: airflow
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ecs-reconciler.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ecs-reconciler.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "ecs-reconciler.image" -}}
{{- $repository := required "image.repository is not set: name your Airflow image with airflow-ecs-reconciler installed, or the daemon's own image" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "ecs-reconciler.metadataSecret" -}}
{{- .Values.airflow.metadataSecret.name | default (printf "%s-metadata" .Values.airflow.release) }}
{{- end }}

{{- define "ecs-reconciler.jwtSecret" -}}
{{- .Values.airflow.jwtSecret.name | default (printf "%s-jwt-secret" .Values.airflow.release) }}
{{- end }}

{{- define "ecs-reconciler.airflowConfigMap" -}}
{{- .Values.airflow.configMap.name | default (printf "%s-config" .Values.airflow.release) }}
{{- end }}

{{- define "ecs-reconciler.apiServer" -}}
{{- printf "http://%s-api-server.%s.svc:8080" .Values.airflow.release .Release.Namespace }}
{{- end }}

{{- /* Options as environment variables: data of a config map. */}}
{{- define "ecs-reconciler.config" -}}
{{- range $section, $options := .Values.config }}
{{- range $name, $value := $options }}
{{- $text := kindIs "string" $value | ternary $value (toJson $value) }}
{{- /* Subnets and the like, which Airflow's configuration writes with commas. */}}
{{- if kindIs "slice" $value }}
{{- if or (not $value) (kindIs "string" (first $value)) }}{{ $text = join "," $value }}{{ end }}
{{- end }}
{{- /* Helm reads numbers as floats: 1000000 would be written as 1e+06. */}}
{{- if kindIs "float64" $value }}
{{- $text = eq (floor $value) $value | ternary (printf "%.0f" $value) (toString $value) }}
{{- end }}
AIRFLOW__{{ upper $section }}__{{ upper $name }}: {{ $text | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Everything that daemon and migration job both know. */}}
{{- define "ecs-reconciler.env" -}}
- name: AIRFLOW_HOME
  value: /var/lib/airflow
{{- if .Values.airflow.configMap.enabled }}
- name: AIRFLOW_CONFIG
  value: /etc/airflow/airflow.cfg
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ecs-reconciler.metadataEnv" -}}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
  valueFrom:
    secretKeyRef:
      name: {{ include "ecs-reconciler.metadataSecret" . }}
      key: {{ .Values.airflow.metadataSecret.key }}
{{- end }}

{{- define "ecs-reconciler.volumeMounts" -}}
- name: home
  mountPath: /var/lib/airflow
- name: tmp
  mountPath: /tmp
{{- if .Values.airflow.configMap.enabled }}
- name: airflow-config
  mountPath: /etc/airflow
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ecs-reconciler.volumes" -}}
- name: home
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- if .Values.airflow.configMap.enabled }}
- name: airflow-config
  configMap:
    name: {{ include "ecs-reconciler.airflowConfigMap" . }}
    items:
      - key: {{ .Values.airflow.configMap.key }}
        path: airflow.cfg
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A file of the chart, with links to runbooks as metrics.runbookUrl has them. Takes a list of the root and a path. */}}
{{- define "ecs-reconciler.linked" -}}
{{- $text := (index . 0).Files.Get (index . 1) }}
{{- with (index . 0).Values.metrics.runbookUrl }}
{{- $text = regexReplaceAll "https://ecs-reconciler\\.example\\.org/runbooks/([A-Za-z]+)" $text (replace "%s" "${1}" .) }}
{{- end }}
{{- $text }}
{{- end }}

{{- /* "true" if objects of the Prometheus Operator are to be made. */}}
{{- define "ecs-reconciler.operator" -}}
{{- $there := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}
{{- if or $there (eq .Values.metrics.renderMode "alwaysRender") }}true
{{- else if eq .Values.metrics.renderMode "failIfMissing" }}
{{- fail "the cluster does not know monitoring.coreos.com/v1: install the Prometheus Operator, or set metrics.renderMode to skipIfMissing" }}
{{- end }}
{{- end }}
