import torch
from ideal import ideal_fields, ideal_segmenter
def test_x():
    labels=torch.zeros(300,300,dtype=torch.int64)
    labels[10:20,10:22]=1; labels[20:40,10:22]=2; labels[50:290,30:280]=3; labels[0:5,290:300]=4
    labels[15:18,14:16]=0
    m=ideal_segmenter()
    out=m.labels(ideal_fields(labels,m),m.thresholds)[0,0]
    labels[15:18,14:16]=1
    assert out.max()==4
    for i in range(1,5):
        v=out[labels==i]; print(i,v.unique(),(labels==i).sum())
        assert len(v.unique())==1
    j=torch.jit.script(m)
    assert torch.equal(j.labels(ideal_fields(labels,m),m.thresholds)[0,0], out)
