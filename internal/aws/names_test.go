package aws

import "testing"

// Every name is in the partition of whoever calls, China and GovCloud included.
func TestNamesByPartition(t *testing.T) {
	for partition, region := range map[string]string{"aws": "eu-west-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"} {
		n, err := namesFrom("arn:"+partition+":sts::123456789012:assumed-role/certvendor/i-1", region)
		if err != nil {
			t.Fatal(err)
		}
		iot := "arn:" + partition + ":iot:" + region + ":123456789012:"
		for got, want := range map[string]string{
			n.certificate("ab"): iot + "cert/ab", n.group("rotate"): iot + "thinggroup/rotate",
			pcaTemplate(partition, true): "arn:" + partition + ":acm-pca:::template/EndEntityClientAuthCertificate/V1",
		} {
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		if is := PartitionOf(region); is != partition {
			t.Errorf("region %s is in %s", region, is)
		}
	}
}
