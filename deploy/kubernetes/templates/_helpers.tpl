{{- define "segmentation.fullname" -}}
{{- if contains "segmentation" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-segmentation" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "segmentation.selector" -}}
app.kubernetes.io/name: segmentation
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "segmentation.labels" -}}
{{ include "segmentation.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* The resources and, with device cuda, the GPUs. They cannot be overcommitted: the limit is also the request. */ -}}
{{- define "segmentation.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if eq .Values.device "cuda" -}}
{{- $gpus := dict "nvidia.com/gpu" .Values.gpus -}}
{{- $_ := set $resources "limits" (merge $gpus ($resources.limits | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
