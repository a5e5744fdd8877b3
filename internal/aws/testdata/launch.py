# Starts moto as a server whose certificate ids are what AWS's are: the SHA-256
# of the certificate's DER. moto_server itself hashes the PEM text. It also
# teaches it what moto 5.2.1 does not know of AWS IoT: tags, which events are
# published, and UpdateJob.
import sys
from urllib.parse import parse_qsl

from moto.core.config import default_user_config

default_user_config["iot"] = {"use_valid_cert": True}

from moto.core.responses import ActionResult, EmptyResult
from moto.iot.responses import IoTResponse

tags = {}  # by ARN
events = {}  # by account and region


def tagging(create, arn, given):
    def made(self):
        answer = create(self)
        tags[arn(self)] = given(self)
        return answer

    return made


def listed(self):
    return {t["Key"]: t["Value"] for t in self._get_param("tags") or []}


def in_header(self):
    return dict(parse_qsl(self.headers.get("x-amz-tagging", "")))


def path_end(self):
    return self.path.rstrip("/").split("/")[-1]


IoTResponse.create_thing_group = tagging(
    IoTResponse.create_thing_group,
    lambda self: self.iot_backend.describe_thing_group(path_end(self)).arn,
    listed,
)
IoTResponse.create_job = tagging(
    IoTResponse.create_job,
    lambda self: self.iot_backend.jobs[self._get_param("jobId")].job_arn,
    listed,
)
IoTResponse.create_topic_rule = tagging(
    IoTResponse.create_topic_rule,
    lambda self: self.iot_backend.rules[self._get_param("ruleName")].arn,
    in_header,
)


def list_tags_for_resource(self):
    found = tags.get(self._get_param("resourceArn"), {})
    return ActionResult({"tags": [{"Key": k, "Value": v} for k, v in found.items()]})


def describe_event_configurations(self):
    return ActionResult({"eventConfigurations": events.get((self.current_account, self.region), {})})


def update_event_configurations(self):
    events.setdefault((self.current_account, self.region), {}).update(self._get_param("eventConfigurations"))
    return EmptyResult()


def update_job(self):
    job = self.iot_backend.jobs[self._get_param("jobId")]
    job.timeout_config = self._get_param("timeoutConfig")
    return EmptyResult()


for method in (list_tags_for_resource, describe_event_configurations, update_event_configurations, update_job):
    setattr(IoTResponse, method.__name__, method)

from moto.server import main

main(sys.argv[1:])
