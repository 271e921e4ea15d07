package lab

import "testing"

func TestSteadilyAsksTwiceThoughItIsStoppedAtOnce(t *testing.T) {
	asked := 0
	Steadily(t, "nobody", func() error {
		asked++
		return nil
	})()
	if asked < 2 {
		t.Errorf("asked %d times", asked)
	}
}
